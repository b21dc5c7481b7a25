//! How a linear layer's matrix is stored and multiplied.

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Result, Tensor, bail};

use super::bf16::Bf16Weight;
use super::dense;
use super::fp8::{self, Fp8Weight};
use super::ggml::GgmlWeight;
use super::on_device::DeviceWeight;
use super::packed::{self, PackedWeight};
use crate::compute::Compute;
use crate::cpu::bf16::{Bf16Isa, Bf16Panels};
use crate::cuda::DeviceMatrix;
use crate::weights::{Rounding, Weights, WeightsError, on_device, type_name};

/// The matrix `[out, in]` of a linear layer, and its operations. Each format of weights is a
/// variant; the tensors of the checkpoint decide which ([`LinearMethod::load`]).
#[derive(Clone, Debug)]
pub enum LinearMethod {
    /// A dense matrix in f32, bf16 or f16.
    Dense(Tensor),
    /// A dense matrix in bf16, for products in bf16 on the CPU.
    Bf16(Bf16Weight),
    /// ggml's blocks, of a GGUF file or rounded while they were loaded.
    Ggml(GgmlWeight),
    /// FP8 with scales of blocks, as stored or rounded while they were loaded.
    Fp8(Fp8Weight),
    /// Integers in groups: AWQ, GPTQ, compressed-tensors.
    Packed(PackedWeight),
    /// One of the last three on a GPU, for kernels of our own.
    Device(DeviceWeight),
}

/// How a checkpoint stores a layer: its tensors tell.
pub(super) enum Stored {
    /// `weight` alone, in numbers.
    Plain,
    /// `weight` in FP8.
    Fp8,
    /// Integers, in the tensor of that name.
    Packed(&'static str),
}

impl LinearMethod {
    /// Loads the layer `name` as the checkpoint stores it, in the type in which weights are kept.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Method`] if its format is not supported, and the other [`WeightsError`]s.
    pub fn load(
        weights: &Weights,
        name: &str,
        shape: (usize, usize),
    ) -> std::result::Result<Self, WeightsError> {
        Self::load_for(weights, name, shape, weights.compute())
    }

    /// Like [`LinearMethod::load`], but with this arithmetic.
    pub(super) fn load_for(
        weights: &Weights,
        name: &str,
        shape: (usize, usize),
        compute: Compute,
    ) -> std::result::Result<Self, WeightsError> {
        let fast = compute == Compute::Fast;
        let (isa, int8) = (weights.bf16().filter(|_| fast), weights.int8() && fast);
        let tensor = format!("{name}.weight");
        if weights.has_blocks(&tensor) {
            if int8 && let Some(weight) = GgmlWeight::integers(weights, &tensor, shape)? {
                return Ok(Self::Ggml(weight));
            }
            let matrix = weights.blocks(&tensor, shape)?;
            if let Some(weight) =
                on_device(&tensor, DeviceWeight::blocks(&matrix, weights.device()))?
            {
                return Ok(Self::Device(weight));
            }
            let weight = GgmlWeight::stored(matrix.into(), weights.device());
            return on_device(&tensor, weight).map(Self::Ggml);
        }
        let loaded = match Stored::of(weights, name, shape)? {
            Stored::Plain => Self::plain(weights, &tensor, &[shape.0, shape.1], isa)?,
            Stored::Fp8 => Self::Fp8(Fp8Weight::load(weights, name, shape, isa)?),
            Stored::Packed(tensor) => {
                Self::Packed(PackedWeight::load(weights, name, tensor, shape, int8)?)
            }
        };
        loaded.moved(weights, name)
    }

    /// Copies a matrix that is quantised from the host to the device of `weights`, if that is
    /// another.
    fn moved(self, weights: &Weights, name: &str) -> std::result::Result<Self, WeightsError> {
        let device = weights.device();
        let stored = match &self {
            _ if device.is_cpu() => return Ok(self),
            Self::Fp8(weight) => weight.stored(),
            Self::Packed(weight) => weight.stored(),
            _ => return Ok(self),
        };
        let Some(stored) = stored else {
            return Err(WeightsError::CpuOnly {
                name: name.into(),
                format: format!("{} in blocks of odd columns", quantised_as(weights)),
            });
        };
        let label = self.quantised().unwrap_or_default();
        on_device(name, DeviceWeight::quantised(stored, label, device)).map(Self::Device)
    }

    /// Loads the tensor `name`, plain numbers; the axes of `shape` behind the first are inputs.
    pub(super) fn plain(
        weights: &Weights,
        name: &str,
        shape: &[usize],
        isa: Option<Bf16Isa>,
    ) -> std::result::Result<Self, WeightsError> {
        Ok(match isa {
            Some(isa) => Self::Bf16(Bf16Weight::load(weights, name, shape, isa)?),
            None => Self::Dense(weights.matrix(name, shape)?),
        })
    }

    /// Like [`LinearMethod::load`], but quantized at load if that is requested and the blocks
    /// divide a row.
    ///
    /// # Errors
    ///
    /// See [`LinearMethod::load`].
    pub fn load_rounded(
        weights: &Weights,
        name: &str,
        shape: (usize, usize),
    ) -> std::result::Result<Self, WeightsError> {
        let Some(rounding) = weights.quantize_at_load().rounding(shape.1) else {
            return Self::load(weights, name, shape);
        };
        if !matches!(Stored::of(weights, name, shape)?, Stored::Plain) {
            return Err(WeightsError::Quantised {
                name: name.into(),
                format: quantised_as(weights),
            });
        }
        let tensor = format!("{name}.weight");
        match rounding {
            Rounding::Ggml(format) => match DeviceWeight::round(weights, &tensor, shape, format)? {
                Some(weight) => Ok(Self::Device(weight)),
                None => GgmlWeight::round(weights, &tensor, shape, format).map(Self::Ggml),
            },
            Rounding::Fp8 => {
                let weight = Fp8Weight::round(weights, &tensor, shape, weights.bf16())?;
                Self::Fp8(weight).moved(weights, name)
            }
        }
    }

    /// `x Wᵀ` for `x` `[rows, in]`, in the type of `x`.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the device fails.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => dense::product(weight, x),
            Self::Bf16(weight) => weight.product(x),
            Self::Ggml(weight) => weight.product(x),
            Self::Fp8(weight) => weight.product(x),
            Self::Packed(weight) => weight.product(x),
            Self::Device(weight) => weight.product(x),
        }
    }

    /// [`LinearMethod::product`] into `out`, on the CPU.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the matrix is not on the CPU.
    pub(super) fn product_into(&self, x: &Tensor, out: &Tensor) -> Result<()> {
        match self {
            Self::Dense(weight) => dense::product_into(weight, x, out),
            Self::Bf16(weight) => weight.product_into(x, out),
            Self::Ggml(weight) => weight.product_into(x, out),
            Self::Fp8(weight) => weight.product_into(x, out),
            Self::Packed(weight) => weight.product_into(x, out),
            Self::Device(_) => bail!("stored-matmul-t: not on the CPU"),
        }
    }

    /// Joins the matrices, one below the other; the parts become views of the result. None on the
    /// CPU, where small products are as fast, and for matrices that have no views.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub(super) fn join(parts: &mut [&mut Self]) -> Result<Option<Self>> {
        let stored = parts.iter_mut().map(|part| match part {
            Self::Device(weight) => Some(weight),
            _ => None,
        });
        if let Some(mut stored) = stored.collect::<Option<Vec<_>>>() {
            let joined = DeviceWeight::join(&mut stored)?;
            return Ok(joined.map(Self::Device));
        }
        let weights: Option<Vec<Tensor>> = parts
            .iter()
            .map(|part| match part {
                Self::Dense(weight) if weight.device().is_cuda() => Some(weight.clone()),
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
            **part = Self::Dense(all.narrow(0, first, rows)?);
            first += rows;
        }
        Ok(Some(Self::Dense(all)))
    }

    /// Some rows of the matrix, in the same memory.
    ///
    /// # Errors
    ///
    /// If there are fewer, or they have no view.
    pub(super) fn narrow(&self, first: usize, rows: usize) -> Result<Self> {
        match self {
            Self::Dense(weight) => weight.narrow(0, first, rows).map(Self::Dense),
            Self::Device(weight) => weight.narrow(first, rows).map(Self::Device),
            _ => bail!("a matrix without views"),
        }
    }

    /// It as kernels on a GPU read it; none if they cannot.
    pub(super) fn matrix(&self) -> Option<DeviceMatrix> {
        match self {
            Self::Dense(weight) => DeviceMatrix::dense(weight),
            Self::Device(weight) => Some(weight.matrix()).cloned(),
            _ => None,
        }
    }

    /// Number of outputs.
    ///
    /// # Errors
    ///
    /// If the weight is quantized and not on the CPU.
    pub(super) fn outputs(&self) -> Result<usize> {
        match self {
            Self::Dense(weight) => weight.dim(0),
            Self::Bf16(weight) => Ok(weight.matrix().dims().0),
            Self::Ggml(weight) => match weight.outputs() {
                Some(outputs) => Ok(outputs),
                None => bail!("blocks that are not on the CPU"),
            },
            Self::Fp8(weight) => Ok(weight.outputs()),
            Self::Packed(weight) => Ok(weight.outputs()),
            Self::Device(weight) => Ok(weight.outputs()),
        }
    }

    /// The blocks that it is stored in, if it is.
    pub fn format(&self) -> Option<GgmlDType> {
        match self {
            Self::Ggml(weight) => Some(weight.dtype()),
            Self::Device(weight) => weight.format(),
            _ => None,
        }
    }

    /// How it is quantised otherwise, for users: `awq 4-bit`; none if it is not.
    pub fn quantised(&self) -> Option<String> {
        match self {
            Self::Dense(_) | Self::Bf16(_) | Self::Ggml(_) => None,
            Self::Fp8(_) => Some("fp8".into()),
            Self::Packed(weight) => Some(weight.label()),
            Self::Device(weight) => weight.label().map(Into::into),
        }
    }

    /// Bytes of the matrix.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Self::Bf16(weight) => weight.matrix().bytes(),
            Self::Ggml(weight) => weight.bytes(),
            Self::Fp8(weight) => weight.bytes(),
            Self::Packed(weight) => weight.bytes(),
            Self::Device(weight) => weight.bytes(),
        }
    }
}

impl Stored {
    /// # Errors
    ///
    /// [`WeightsError::Method`] if scales are beside numbers, which need none; a tensor of another
    /// shape or of a type that is not supported.
    pub(super) fn of(
        weights: &Weights,
        name: &str,
        (out, input): (usize, usize),
    ) -> std::result::Result<Self, WeightsError> {
        let part = |part: &str| format!("{name}.{part}");
        let has = |name: &str| weights.contains(&part(name));
        if let Some(tensor) = packed::tensor(weights, name) {
            return Ok(Self::Packed(tensor));
        }
        let scales = fp8::SCALES.into_iter().find(|scales| has(scales));
        match weights.stored_dtype(&part("weight"), &[out, input])? {
            DType::F8E4M3 => Ok(Self::Fp8),
            dtype => match scales {
                None => Ok(Self::Plain),
                Some(scales) => Err(WeightsError::Method {
                    name: name.into(),
                    found: format!("weight in {} with {scales}", type_name(dtype)),
                }),
            },
        }
    }
}

/// What config.json calls quantised layers.
pub(super) fn quantised_as(weights: &Weights) -> String {
    let quantization = weights.quantization().map(ToString::to_string);
    quantization.unwrap_or_else(|| "quantised".into())
}
