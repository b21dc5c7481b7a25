//! How a linear layer's matrix is stored and multiplied.

use candle_core::quantized::GgmlDType;
use candle_core::{Result, Tensor, bail};

use super::dense;
use super::ggml::GgmlWeight;
use crate::weights::{Weights, WeightsError, on_device};

/// The matrix `[out, in]` of a linear layer, and its operations. Each format of weights is a
/// variant; the tensors of the checkpoint decide which ([`LinearMethod::load`]).
#[derive(Clone, Debug)]
pub enum LinearMethod {
    /// A dense matrix in f32, bf16 or f16.
    Dense(Tensor),
    /// ggml's blocks, of a GGUF file or quantized while they are loaded.
    Ggml(GgmlWeight),
}

/// The formats that can be loaded, as errors name them.
const KNOWN: &str = "{name}.weight in F64, F32, BF16 or F16";

/// Tensors that tell formats which cannot be loaded, and their names in errors.
const OTHERS: [(&str, &str); 4] = [
    ("qweight", "qweight (GPTQ or AWQ)"),
    ("weight_packed", "weight_packed (compressed-tensors)"),
    ("weight_scale_inv", "weight_scale_inv (FP8 blocks)"),
    ("weight_scale", "weight_scale (FP8 or INT8)"),
];

impl LinearMethod {
    /// Loads the layer `name` as the checkpoint stores it, in the type in which weights are kept.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Method`] if its format is not supported, and the other [`WeightsError`]s.
    pub fn load(
        weights: &Weights,
        name: &str,
        (out, input): (usize, usize),
    ) -> std::result::Result<Self, WeightsError> {
        ensure_known(weights, name)?;
        let tensor = format!("{name}.weight");
        if weights.has_blocks(&tensor) {
            let matrix = weights.blocks(&tensor, (out, input))?;
            let weight = GgmlWeight::stored(matrix.into(), weights.device());
            return on_device(&tensor, weight).map(Self::Ggml);
        }
        let weight = weights.matrix(&tensor, &[out, input])?;
        Ok(Self::Dense(weight))
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
        let Some(format) = weights.quantize_at_load().format(shape.1) else {
            return Self::load(weights, name, shape);
        };
        ensure_known(weights, name)?;
        let weight = GgmlWeight::round(weights, &format!("{name}.weight"), shape, format)?;
        Ok(Self::Ggml(weight))
    }

    /// `x Wᵀ` for `x` `[rows, in]`, in the type of `x`.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the device fails.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => dense::product(weight, x),
            Self::Ggml(weight) => weight.product(x),
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
            Self::Ggml(weight) => weight.product_into(x, out),
        }
    }

    /// Joins the matrices, one below the other; the parts become views of the result. None on the
    /// CPU, where small products are as fast, and for matrices that have no views.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub(super) fn join(parts: &mut [&mut Self]) -> Result<Option<Self>> {
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

    /// Number of outputs.
    ///
    /// # Errors
    ///
    /// If the weight is quantized and not on the CPU.
    pub(super) fn outputs(&self) -> Result<usize> {
        match self {
            Self::Dense(weight) => weight.dim(0),
            Self::Ggml(weight) => match weight.outputs() {
                Some(outputs) => Ok(outputs),
                None => bail!("blocks that are not on the CPU"),
            },
        }
    }

    /// Type of its blocks, if it has any.
    pub fn format(&self) -> Option<GgmlDType> {
        match self {
            Self::Dense(_) => None,
            Self::Ggml(weight) => Some(weight.dtype()),
        }
    }

    /// Bytes of the matrix.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Self::Ggml(weight) => weight.bytes(),
        }
    }
}

/// Checks that the layer's format is supported.
fn ensure_known(weights: &Weights, name: &str) -> std::result::Result<(), WeightsError> {
    let has = |part: &str| weights.contains(&format!("{name}.{part}"));
    match OTHERS.iter().find(|(part, _)| has(part)) {
        None => Ok(()),
        Some((_, found)) => Err(WeightsError::Method {
            name: name.into(),
            found,
            known: KNOWN,
        }),
    }
}
