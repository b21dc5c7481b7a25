//! A GPU's kernels against their twins on the CPU in f32, on random inputs, and recorded steps against the
//! same steps kernel by kernel.

mod attention;
mod recorded;
mod rows;

use candle_core::{DType, Device, Result, Tensor};

use super::parity::Check;
use super::weights::hash_fill;

pub use recorded::recorded;

/// What all comparisons need.
struct On<'a> {
    device: &'a Device,
    dtype: DType,
    seed: u64,
    /// A rounding of the type, of the largest value.
    step: f64,
    checks: Vec<Check>,
}

/// Compares them in f32 and bf16, with inputs that `seed` makes.
///
/// # Errors
///
/// If the device fails or is none of NVIDIA's.
pub fn check(device: &Device, seed: u64) -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for (dtype, step) in [(DType::F32, 1e-5), (DType::BF16, 1.0 / 128.0)] {
        let mut on = On {
            device,
            dtype,
            seed,
            step,
            checks: Vec::new(),
        };
        on.rows()?;
        on.attention()?;
        on.rope_write()?;
        on.vision_rows()?;
        on.vision()?;
        on.choice()?;
        on.patches()?;
        all.extend(on.checks);
    }
    Ok(all)
}

impl On<'_> {
    /// A random tensor of the type, on the CPU: what a norm multiplies by or adds as in a checkpoint, anything
    /// else from -3 to 3, so that attention sees some keys much better than others.
    fn random(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let count = shape.iter().product();
        let scale = if name.contains("norm") { 1.0 } else { 30.0 };
        let values = hash_fill(name, &[count], self.seed).into_iter();
        let values: Vec<f32> = values.map(|value| value * scale).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)
    }

    fn there(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.to_device(self.device)
    }

    /// Notes how far `got` is from `want`, which may be `steps` roundings.
    fn compare(&mut self, name: &str, got: &Tensor, want: &Tensor, steps: f64) -> Result<()> {
        let got = wide(&got.to_device(&Device::Cpu)?)?;
        let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        // A value that is not a number must not be lost in a maximum.
        let most = |values: Vec<f32>| {
            let values = values.into_iter().map(|v| f64::from(v.abs()));
            values.fold(0.0, |most, v| if v > most || v.is_nan() { v } else { most })
        };
        self.checks.push(Check {
            name: format!("{name} {:?}", self.dtype),
            difference: most(values(&(got - want)?)?),
            limit: steps * self.step * most(values(want)?),
        });
        Ok(())
    }
}

fn wide(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(DType::F32)
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    wide(tensor)?.flatten_all()?.to_vec1()
}
