//! Linear layers: on the CPU by the kernels of [`crate::cpu`], elsewhere by candle's own products.

use candle_core::{
    CpuStorage, CustomOp2, DType, Device, InplaceOp3, Layout, Result, Shape, Tensor, bail,
};

use super::activation::add;
use super::quantized::QuantizedWeight;
use super::weights::{Weights, WeightsError};
use crate::cpu::matmul::{matmul_t, matmul_t_into};
use crate::cpu::quantized::Format;

/// `y = x Wᵀ + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

/// `[out, in]`.
#[derive(Clone, Debug)]
enum Weight {
    Plain(Tensor),
    Quantized(QuantizedWeight),
}

/// Room for a large result that one layer after the other makes and uses up: in fresh memory the
/// system clears each page when it is touched first.
#[derive(Debug, Default)]
pub struct Reused(Option<Tensor>);

impl Linear {
    /// Loads `{name}.weight` `[out, in]`.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn load(
        weights: &Weights,
        name: &str,
        (out, input): (usize, usize),
    ) -> std::result::Result<Self, WeightsError> {
        let weight = weights.matrix(&format!("{name}.weight"), &[out, input])?;
        Ok(Self::new(weight, None))
    }

    /// Loads `{name}.weight` `[out, in]`, rounded if the [`Quantization`](super::Quantization) of the
    /// load says so and its blocks fit.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn load_quantized(
        weights: &Weights,
        name: &str,
        shape: (usize, usize),
    ) -> std::result::Result<Self, WeightsError> {
        let Some(format) = weights.quantization().format(shape.1) else {
            return Self::load(weights, name, shape);
        };
        let weight = weights.quantized(&format!("{name}.weight"), shape, format)?;
        Ok(Self {
            weight: Weight::Quantized(weight),
            bias: None,
        })
    }

    /// Loads `{name}.weight` and `{name}.bias`.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn load_with_bias(
        weights: &Weights,
        name: &str,
        shape: (usize, usize),
    ) -> std::result::Result<Self, WeightsError> {
        let bias = weights.vector(&format!("{name}.bias"), &[shape.0])?;
        Ok(Self {
            bias: Some(bias),
            ..Self::load(weights, name, shape)?
        })
    }

    /// On a GPU, one layer that gives what all of these give, side by side, of whose weight theirs are
    /// views then. None on the CPU, or if a weight is rounded or a layer has a bias.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub(super) fn join(parts: &mut [Self]) -> Result<Option<Self>> {
        let weights: Option<Vec<Tensor>> = parts
            .iter()
            .map(|part| match (&part.weight, &part.bias) {
                (Weight::Plain(weight), None) if weight.device().is_cuda() => Some(weight.clone()),
                _ => None,
            })
            .collect();
        let Some(weights) = weights else {
            return Ok(None);
        };
        let all = Tensor::cat(&weights, 0)?;
        let mut first = 0;
        for (part, weight) in std::iter::zip(parts, weights) {
            let rows = weight.dim(0)?;
            part.weight = Weight::Plain(all.narrow(0, first, rows)?);
            first += rows;
        }
        Ok(Some(Self::new(all, None)))
    }

    /// A layer of given weight `[out, in]` and bias `[out]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self {
            weight: Weight::Plain(weight),
            bias,
        }
    }

    /// `x` `[rows, in]` to `[rows, out]`.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.product(x)?;
        match &self.bias {
            Some(bias) => add(y, bias),
            None => Ok(y),
        }
    }

    /// The same without the bias.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        match (&self.weight, x.device()) {
            (Weight::Quantized(weight), _) => weight.forward(x),
            (Weight::Plain(weight), Device::Cpu) => x.apply_op2_no_bwd(weight, &MatmulT),
            (Weight::Plain(weight), _) => x.matmul(&weight.t()?),
        }
    }

    /// What is added to every row `[out]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// [`Linear::forward`] into the memory of an earlier result, which nobody needs any more then.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit.
    pub fn forward_into(&self, x: &Tensor, reused: &mut Reused) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return self.forward(x);
        }
        let shape = (x.dim(0)?, self.outputs()?);
        let out = match reused.0.take() {
            Some(out) if out.dims2()? == shape => out,
            _ => Tensor::zeros(shape, DType::F32, &Device::Cpu)?,
        };
        match &self.weight {
            Weight::Plain(weight) => out.inplace_op3(x, weight, &MatmulT)?,
            Weight::Quantized(weight) => weight.forward_into(x, &out)?,
        }
        reused.0 = Some(out.clone());
        match &self.bias {
            Some(bias) => add(out, bias),
            None => Ok(out),
        }
    }

    /// Values of a row of the result.
    ///
    /// # Errors
    ///
    /// If the weight is rounded and not on the CPU.
    pub(super) fn outputs(&self) -> Result<usize> {
        match &self.weight {
            Weight::Plain(weight) => weight.dim(0),
            Weight::Quantized(weight) => weight.outputs(),
        }
    }

    /// What the weight is rounded to, if it is.
    pub fn format(&self) -> Option<Format> {
        match &self.weight {
            Weight::Plain(_) => None,
            Weight::Quantized(weight) => Some(weight.format()),
        }
    }

    /// Memory that the weight takes.
    pub fn bytes(&self) -> usize {
        match &self.weight {
            Weight::Plain(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Weight::Quantized(weight) => weight.bytes(),
        }
    }
}

/// The contiguous data of a CPU tensor.
pub(super) fn slice<'a, T>(values: &'a [T], layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("a CPU kernel needs contiguous input"),
    }
}

/// The same, to be changed.
pub(super) fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("a CPU kernel needs contiguous f32 values"),
    }
}

/// `x Wᵀ` for `x` `[m, k]` in f32 and `W` `[n, k]` in f32, bf16 or f16.
struct MatmulT;

impl CustomOp2 for MatmulT {
    fn name(&self) -> &'static str {
        "matmul-t"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = sizes(x_layout, w_layout)?;
        let x = slice(x.as_slice::<f32>()?, x_layout)?;
        let out = match w {
            CpuStorage::BF16(w) => matmul_t(x, slice(w, w_layout)?, sizes),
            CpuStorage::F16(w) => matmul_t(x, slice(w, w_layout)?, sizes),
            CpuStorage::F32(w) => matmul_t(x, slice(w, w_layout)?, sizes),
            _ => bail!("matmul-t: weights are f32, bf16 or f16"),
        };
        Ok((CpuStorage::F32(out), (sizes.0, sizes.1).into()))
    }
}

impl InplaceOp3 for MatmulT {
    fn name(&self) -> &'static str {
        "matmul-t"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<()> {
        let sizes = sizes(x_layout, w_layout)?;
        if out_layout.shape().dims2()? != (sizes.0, sizes.1) {
            bail!(
                "matmul-t: [{}, {}] into {:?}",
                sizes.0,
                sizes.1,
                out_layout.shape()
            );
        }
        let out = slice_mut(out, out_layout)?;
        let x = slice(x.as_slice::<f32>()?, x_layout)?;
        match w {
            CpuStorage::BF16(w) => matmul_t_into(x, slice(w, w_layout)?, sizes, out),
            CpuStorage::F16(w) => matmul_t_into(x, slice(w, w_layout)?, sizes, out),
            CpuStorage::F32(w) => matmul_t_into(x, slice(w, w_layout)?, sizes, out),
            _ => bail!("matmul-t: weights are f32, bf16 or f16"),
        }
        Ok(())
    }
}

/// m, n and k of `[m, k]` and `[n, k]`.
fn sizes(x: &Layout, w: &Layout) -> Result<(usize, usize, usize)> {
    let ((m, k), (n, k_w)) = (x.shape().dims2()?, w.shape().dims2()?);
    if k != k_w {
        bail!("matmul-t: [{m}, {k}] with [{n}, {k_w}]");
    }
    Ok((m, n, k))
}
