//! Matrices in ggml's blocks: rounded while they are loaded, or as a file has them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Result, Tensor};

use super::product::{CpuMatrix, product, product_into};
use super::rounded::by_rows;
use crate::compute::Compute;
use crate::cpu::blocks::BlockMatrix;
use crate::cpu::int8::Int8Matrix;
use crate::cpu::quantized::{Format, QuantizedMatrix, round};
use crate::weights::{QuantizeAtLoad, StoredTensor, Weights, WeightsError, block_name, on_device};

/// A weight `[out, in]` in blocks.
#[derive(Clone, Debug)]
pub enum GgmlWeight {
    /// Rounded at load, for the kernels of [`crate::cpu::quantized`].
    Cpu(Arc<QuantizedMatrix>),
    /// As a file has it, for those of [`crate::cpu::blocks`].
    Stored(Arc<BlockMatrix>),
    /// A file's blocks of that type, taken apart for those of [`crate::cpu::int8`].
    Integers(Arc<Int8Matrix>, GgmlDType),
    /// For candle's, elsewhere.
    Device(QMatMul, GgmlDType),
}

impl GgmlWeight {
    /// Quantizes a matrix of a checkpoint while reading it.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn round(
        weights: &Weights,
        name: &str,
        (out, input): (usize, usize),
        format: Format,
    ) -> std::result::Result<Self, WeightsError> {
        let (shape, device) = ([out, input], weights.device());
        let stored = weights.stored(name, &shape, format.bytes(out.saturating_mul(input)))?;
        match device {
            Device::Cpu => Self::round_on_cpu(&*stored, (out, input), format, weights.compute()),
            device => {
                let dtype = format.dtype();
                let tensor = stored.tensor(&Device::Cpu)?;
                let rounded = QTensor::quantize_onto(&tensor, dtype, device);
                let weight = on_device(name, rounded.and_then(QMatMul::from_qtensor))?;
                Ok(Self::Device(weight, dtype))
            }
        }
    }

    fn round_on_cpu(
        stored: &dyn StoredTensor,
        dims: (usize, usize),
        format: Format,
        compute: Compute,
    ) -> std::result::Result<Self, WeightsError> {
        let weight = by_rows(stored, dims, |rows| match compute {
            Compute::Exact => round(format, dims, rows).map(|m| Self::Stored(Arc::new(m))),
            Compute::Fast => {
                QuantizedMatrix::quantize(format, dims, rows).map(|m| Self::Cpu(Arc::new(m)))
            }
        })?;
        weight.ok_or_else(|| WeightsError::Memory(stored.name().into()))
    }

    /// The blocks of a file, to be multiplied as integers; none for types that are not.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(in crate::model) fn integers(
        weights: &Weights,
        name: &str,
        shape: (usize, usize),
    ) -> std::result::Result<Option<Self>, WeightsError> {
        let found = weights.integers(name, shape)?;
        Ok(found.map(|(matrix, dtype)| Self::Integers(Arc::new(matrix), dtype)))
    }

    /// The blocks of a file, to be multiplied on `device`.
    ///
    /// # Errors
    ///
    /// If the device cannot hold them.
    pub(super) fn stored(matrix: Arc<BlockMatrix>, device: &Device) -> Result<Self> {
        if device.is_cpu() {
            return Ok(Self::Stored(matrix));
        }
        let (blocks, dtype) = (Cow::Borrowed(matrix.blocks()), matrix.dtype());
        let tensor = QTensor::new(QStorage::from_data(blocks, device, dtype)?, matrix.dims())?;
        Ok(Self::Device(QMatMul::from_qtensor(tensor)?, dtype))
    }

    /// `x Wᵀ` for `x` `[rows, in]`, in the type of `x`.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the device fails.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cpu(matrix) => product(&**matrix, x),
            Self::Stored(matrix) => product(&**matrix, x),
            Self::Integers(matrix, _) => product(&**matrix, x),
            Self::Device(weight, _) => weight
                .forward(&x.to_dtype(DType::F32)?)?
                .to_dtype(x.dtype()),
        }
    }

    /// [`GgmlWeight::product`] into `out`, on the CPU.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the weight is not on the CPU.
    pub(super) fn product_into(&self, x: &Tensor, out: &Tensor) -> Result<()> {
        match self {
            Self::Cpu(matrix) => product_into(&**matrix, x, out),
            Self::Stored(matrix) => product_into(&**matrix, x, out),
            Self::Integers(matrix, _) => product_into(&**matrix, x, out),
            Self::Device(..) => candle_core::bail!("quantized-matmul-t: not on the CPU"),
        }
    }

    /// Type of the blocks.
    pub fn dtype(&self) -> GgmlDType {
        match self {
            Self::Cpu(matrix) => matrix.format().dtype(),
            Self::Stored(matrix) => matrix.dtype(),
            Self::Integers(_, dtype) | Self::Device(_, dtype) => *dtype,
        }
    }

    /// Rows of the matrix; none if it is not on the CPU.
    pub(super) fn outputs(&self) -> Option<usize> {
        match self {
            Self::Cpu(matrix) => Some(matrix.dims().0),
            Self::Stored(matrix) => Some(matrix.dims().0),
            Self::Integers(matrix, _) => Some(matrix.dims().0),
            Self::Device(..) => None,
        }
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Cpu(matrix) => matrix.bytes(),
            Self::Stored(matrix) => matrix.blocks().len(),
            Self::Integers(matrix, _) => matrix.bytes(),
            Self::Device(QMatMul::QTensor(weight), _) => weight.storage_size_in_bytes(),
            Self::Device(QMatMul::Tensor(t) | QMatMul::TensorF16(t), _) => {
                t.elem_count() * t.dtype().size_in_bytes()
            }
        }
    }
}

impl CpuMatrix for QuantizedMatrix {
    const NAME: &'static str = "quantized-matmul-t";

    fn dims(&self) -> (usize, usize) {
        self.dims()
    }

    fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        self.matmul_t_into(x, m, out);
    }
}

impl CpuMatrix for Int8Matrix {
    const NAME: &'static str = "int8-matmul-t";

    fn dims(&self) -> (usize, usize) {
        self.dims()
    }

    fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        self.matmul_t_into(x, m, out);
    }
}

impl CpuMatrix for BlockMatrix {
    const NAME: &'static str = "blocks-matmul-t";

    fn dims(&self) -> (usize, usize) {
        self.dims()
    }

    fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        self.matmul_t_into(x, m, out);
    }
}

/// How the layers are stored: what was asked for, and how many got something else (`q4-k`, or
/// `q4-k, 4 of 29 layers q8-0`); else what blocks a file has (`q4_k, 12 of 197 layers q6_k`). None
/// for plain numbers.
pub(super) fn summary(asked: QuantizeAtLoad, layers: &[Option<GgmlDType>]) -> Option<String> {
    match asked {
        QuantizeAtLoad::None | QuantizeAtLoad::Fp8 => as_stored(layers),
        QuantizeAtLoad::Q8_0 => Some(rounded(asked, GgmlDType::Q8_0, layers)),
        QuantizeAtLoad::Q4K => Some(rounded(asked, GgmlDType::Q4K, layers)),
    }
}

fn rounded(asked: QuantizeAtLoad, wanted: GgmlDType, layers: &[Option<GgmlDType>]) -> String {
    let mut text = asked.as_str().to_owned();
    let others = [(Some(GgmlDType::Q8_0), "q8-0"), (None, "as stored")];
    for (other, name) in others
        .into_iter()
        .filter(|(other, _)| *other != Some(wanted))
    {
        let count = layers.iter().filter(|layer| **layer == other).count();
        if count > 0 {
            text += &format!(", {count} of {} layers {name}", layers.len());
        }
    }
    text
}

fn as_stored(layers: &[Option<GgmlDType>]) -> Option<String> {
    let name = |layer: &Option<GgmlDType>| {
        let name = layer.map_or("plain", block_name);
        name.to_ascii_lowercase()
    };
    let mut counts = BTreeMap::<String, usize>::new();
    for layer in layers {
        *counts.entry(name(layer)).or_default() += 1;
    }
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let blocks = layers.iter().any(Option::is_some);
    let mut counts = counts.into_iter().filter(|_| blocks);
    let (mut text, _) = counts.next()?;
    for (name, count) in counts {
        text += &format!(", {count} of {} layers {name}", layers.len());
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_tells_what_fell_back() {
        let layers = [Some(GgmlDType::Q4K), Some(GgmlDType::Q8_0), None];
        let told = |asked, layers: &[_]| summary(asked, layers);
        assert_eq!(
            told(QuantizeAtLoad::Q4K, &layers[..1]).as_deref(),
            Some("q4-k")
        );
        assert_eq!(
            told(QuantizeAtLoad::Q4K, &layers).as_deref(),
            Some("q4-k, 1 of 3 layers q8-0, 1 of 3 layers as stored")
        );
        assert_eq!(
            told(QuantizeAtLoad::Q8_0, &layers[1..]).as_deref(),
            Some("q8-0, 1 of 2 layers as stored")
        );
    }

    #[test]
    fn blocks_of_a_file_are_told() {
        let told = |layers: &[_]| summary(QuantizeAtLoad::None, layers);
        assert_eq!(told(&[None, None]), None);
        assert_eq!(told(&[Some(GgmlDType::Q8_0); 2]).as_deref(), Some("q8_0"));
        let mixed = [
            Some(GgmlDType::Q6K),
            Some(GgmlDType::Q4K),
            None,
            Some(GgmlDType::Q4K),
        ];
        assert_eq!(
            told(&mixed).as_deref(),
            Some("q4_k, 1 of 4 layers plain, 1 of 4 layers q6_k")
        );
    }
}
