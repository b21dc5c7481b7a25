//! A GPU's kernels against their twins on the CPU in f32, on random inputs; recorded steps against
//! the same steps kernel by kernel; streams that must not wait for each other.

mod attention;
mod experts;
mod products;
mod profile;
mod recorded;
mod rows;
mod streams;
mod work;

use candle_core::{DType, Device, Result, Tensor};

use super::Check;
use super::parity::Error;
use super::weights::hash_fill;
use qwen3_vl::compute::Compute;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{LoadOptions, ModelSource};
use qwen3_vl::weights::QuantizeAtLoad;

pub use profile::{Row, Table, profile};

/// The groups, in the order of use: a failed one may explain later ones.
pub const GROUPS: [&str; 12] = [
    "rows",
    "rope-write",
    "attention",
    "vision-rows",
    "vision",
    "choice",
    "patches",
    "products",
    "experts",
    "recorded",
    "recorded-stored",
    "streams",
];

/// Options of the comparisons.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The device of the kernels.
    pub device: DeviceChoice,
    /// Seed of the random inputs.
    pub seed: u64,
    /// Whether recorded steps must equal those kernel by kernel to the bit. A library may choose
    /// another algorithm for the same product while it is recorded.
    pub exact: bool,
}

/// The state of the comparisons.
struct On<'a> {
    device: &'a Device,
    dtype: DType,
    seed: u64,
    /// One rounding step of the type, relative to the largest value.
    step: f64,
    say: &'a mut dyn FnMut(Check),
}

/// Makes the comparisons of one of the [`GROUPS`], in f32 and bf16, and reports each at once. One
/// that cannot be made is reported as failed.
///
/// # Errors
///
/// If there is no such device or group.
pub fn check(
    group: &str,
    options: Options,
    say: &mut dyn FnMut(Check),
) -> std::result::Result<(), Error> {
    let device = options.device.open()?;
    for (choice, dtype, step) in [
        (DtypeChoice::F32, DType::F32, 1e-5),
        (DtypeChoice::Bf16, DType::BF16, 1.0 / 128.0),
    ] {
        let mut on = On {
            device: &device,
            dtype,
            seed: options.seed,
            step,
            say,
        };
        let made: std::result::Result<(), Error> = match group {
            "rows" => on.rows().map_err(Into::into),
            "rope-write" => on.rope_write().map_err(Into::into),
            "attention" => on.attention().map_err(Into::into),
            "vision-rows" => on.vision_rows().map_err(Into::into),
            "vision" => on.vision().map_err(Into::into),
            "choice" => on.choice().map_err(Into::into),
            "patches" => on.patches().map_err(Into::into),
            "products" => on.products().map_err(Into::into),
            "experts" => on.experts().map_err(Into::into),
            "recorded-stored" => recorded::check_stored(options, choice, on.say),
            "recorded" => recorded::check(options, choice, on.say),
            "streams" => streams::check(options.device, choice, on.say),
            other => return Err(format!("no group {other}: {}", GROUPS.join(", ")).into()),
        };
        if let Err(error) = made {
            let error = error.to_string();
            let first = error.lines().next().unwrap_or_default();
            say(Check::impossible(&format!("{group} in {dtype:?}"), first));
        }
    }
    Ok(())
}

/// Options to load a small model on a device.
fn load_options(
    device: DeviceChoice,
    dtype: DtypeChoice,
) -> impl FnOnce(&std::path::Path) -> LoadOptions {
    move |folder| LoadOptions {
        source: ModelSource::Folder(folder.into()),
        mmproj: None,
        device,
        dtype,
        quantization: QuantizeAtLoad::None,
        compute: Some(Compute::Exact),
        kv_memory: None,
    }
}

impl On<'_> {
    /// A random tensor of the type, on the CPU. Norms' weights and biases are as in a checkpoint,
    /// other values from -3 to 3, so that attention weighs keys very differently.
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

    /// Reports the difference of `got` and `want`, of which `steps` roundings are allowed.
    fn compare(&mut self, name: &str, got: &Tensor, want: &Tensor, steps: f64) -> Result<()> {
        let (got, want) = (floats(&got.to_device(&Device::Cpu)?)?, floats(want)?);
        let largest = want.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
        let limit = steps * self.step * f64::from(largest);
        let name = format!("{name} {:?}", self.dtype);
        (self.say)(Check::close(name, &got, &want, limit));
        Ok(())
    }
}

fn wide(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(DType::F32)
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    wide(tensor)?.flatten_all()?.to_vec1()
}
