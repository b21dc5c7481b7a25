//! Linear layers.

mod bf16;
mod dense;
mod fp8;
mod ggml;
mod kept;
mod method;
mod on_device;
mod packed;
mod product;
mod rounded;
mod summary;

use candle_core::quantized::GgmlDType;
use candle_core::{CpuStorage, DType, Device, Layout, Result, Tensor, bail};

use super::activation::add;
use crate::compute::Compute;
use crate::cpu::fp8::Fp8Matrix;
use crate::cuda::DeviceMatrix;
use crate::weights::{Weights, WeightsError};
pub use bf16::Bf16Weight;
pub use fp8::Fp8Weight;
pub use ggml::GgmlWeight;
pub(crate) use kept::{blocks_bytes, kept_bytes, plain_bytes};
pub use method::LinearMethod;
pub use on_device::DeviceWeight;
pub use packed::PackedWeight;
pub(super) use packed::is_packed;
pub(crate) use summary::summary;

/// `y = x Wᵀ + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: LinearMethod,
    bias: Option<Tensor>,
}

/// Memory of a large intermediate result, reused from layer to layer: in fresh memory, the system
/// clears each page on first use.
#[derive(Debug, Default)]
pub struct Reused(Option<Tensor>);

impl Linear {
    /// Loads the layer `name` as it is stored.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn load(
        weights: &Weights,
        name: &str,
        shape: (usize, usize),
    ) -> std::result::Result<Self, WeightsError> {
        let (weight, bias) = (LinearMethod::load(weights, name, shape)?, None);
        Ok(Self { weight, bias })
    }

    /// Loads the layer `name`, quantized if the load quantizes layers and the blocks divide a row.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn load_rounded(
        weights: &Weights,
        name: &str,
        shape: (usize, usize),
    ) -> std::result::Result<Self, WeightsError> {
        let (weight, bias) = (LinearMethod::load_rounded(weights, name, shape)?, None);
        Ok(Self { weight, bias })
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

    /// Loads the layer `name` as it is stored, for f32 products.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn load_exact(
        weights: &Weights,
        name: &str,
        shape: (usize, usize),
    ) -> std::result::Result<Self, WeightsError> {
        let weight = LinearMethod::load_for(weights, name, shape, Compute::Exact)?;
        Ok(Self { weight, bias: None })
    }

    /// Loads `{name}.weight`, plain numbers whose axes behind the first are inputs (a
    /// convolution's), and `{name}.bias`.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn load_flattened(
        weights: &Weights,
        name: &str,
        shape: &[usize],
    ) -> std::result::Result<Self, WeightsError> {
        let outputs = shape.first().copied().unwrap_or(1);
        let tensor = format!("{name}.weight");
        Ok(Self {
            weight: LinearMethod::plain(weights, &tensor, shape, weights.bf16())?,
            bias: Some(weights.vector(&format!("{name}.bias"), &[outputs])?),
        })
    }

    /// One layer whose output is those of the parts, side by side. None if their matrices are not
    /// [joined](LinearMethod::join) or one has a bias.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub(super) fn join(parts: &mut [Self]) -> Result<Option<Self>> {
        if parts.iter().any(|part| part.bias.is_some()) {
            return Ok(None);
        }
        let mut weights: Vec<_> = parts.iter_mut().map(|part| &mut part.weight).collect();
        let joined = LinearMethod::join(&mut weights)?;
        Ok(joined.map(|weight| Self { weight, bias: None }))
    }

    /// A layer with the given weight `[out, in]` and bias `[out]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self {
            weight: LinearMethod::Dense(weight),
            bias,
        }
    }

    /// A layer without a bias whose weight is in bf16, on the CPU.
    pub(super) fn of_bf16(weight: Bf16Weight) -> Self {
        Self {
            weight: LinearMethod::Bf16(weight),
            bias: None,
        }
    }

    /// A layer without a bias whose weight is in blocks.
    pub(super) fn of_blocks(weight: GgmlWeight) -> Self {
        Self {
            weight: LinearMethod::Ggml(weight),
            bias: None,
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

    /// [`Linear::forward`] without the bias.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.product(x)
    }

    /// The bias `[out]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// [`Linear::forward`] into the memory of an earlier result, if that is no longer in use.
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
        self.weight.product_into(x, &out)?;
        reused.0 = Some(out.clone());
        match &self.bias {
            Some(bias) => add(out, bias),
            None => Ok(out),
        }
    }

    /// Number of outputs.
    ///
    /// # Errors
    ///
    /// If the weight is in blocks and not on the CPU.
    pub(super) fn outputs(&self) -> Result<usize> {
        self.weight.outputs()
    }

    /// Some of its outputs, in the same memory.
    ///
    /// # Errors
    ///
    /// If it has fewer, a bias, or no views.
    pub(super) fn narrow(&self, first: usize, outputs: usize) -> Result<Self> {
        match &self.bias {
            Some(_) => bail!("a part of a layer with a bias"),
            None => Ok(Self {
                weight: self.weight.narrow(first, outputs)?,
                bias: None,
            }),
        }
    }

    /// The matrix, if kernels of our own on a GPU can read it and there is no bias.
    pub(super) fn matrix(&self) -> Option<DeviceMatrix> {
        self.weight.matrix().filter(|_| self.bias.is_none())
    }

    /// The matrix, if it is dense.
    pub(super) fn dense(&self) -> Option<&Tensor> {
        match &self.weight {
            LinearMethod::Dense(weight) => Some(weight),
            _ => None,
        }
    }

    /// Whether a product launches the same kernels each time on a GPU, so that it can be recorded.
    pub fn repeats(&self) -> bool {
        !matches!(self.weight, LinearMethod::Ggml(_))
    }

    /// The blocks that the weight is stored in, if it is.
    pub fn format(&self) -> Option<GgmlDType> {
        self.weight.format()
    }

    /// How the weight is quantised otherwise, for users; none if it is not.
    pub fn quantised(&self) -> Option<String> {
        self.weight.quantised()
    }

    /// The weight, if it is in FP8.
    pub fn fp8(&self) -> Option<&Fp8Matrix> {
        match &self.weight {
            LinearMethod::Fp8(weight) => Some(weight.matrix()),
            _ => None,
        }
    }

    /// Memory that the weight takes.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }
}

/// The contiguous data of a CPU tensor.
pub(super) fn slice<'a, T>(values: &'a [T], layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("a CPU kernel needs contiguous input"),
    }
}

/// The contiguous data of a CPU tensor in f32, mutable.
pub(super) fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("a CPU kernel needs contiguous f32 values"),
    }
}
