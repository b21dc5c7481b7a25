//! Matrices in ggml's blocks of 8 or 4 bits per weight.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{
    CpuStorage, CustomOp1, DType, Device, InplaceOp2, Layout, Module, Result, Shape, Tensor,
};

use super::{slice, slice_mut};
use crate::cpu::quantized::{Format, QuantizedMatrix};
use crate::weights::{QuantizeAtLoad, StoredTensor, Weights, WeightsError, on_device};

/// A weight `[out, in]` in ggml's blocks.
#[derive(Clone, Debug)]
pub enum GgmlWeight {
    /// For the kernels of [`crate::cpu::quantized`].
    Cpu(Arc<QuantizedMatrix>),
    /// For candle's kernels, on other devices.
    Device(QMatMul, Format),
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
        Self::new(&*stored, format, device)
    }

    fn new(
        stored: &dyn StoredTensor,
        format: Format,
        device: &Device,
    ) -> std::result::Result<Self, WeightsError> {
        let name = stored.name();
        if let Device::Cpu = device {
            let dims = on_device(name, stored.dims2())?;
            let failed = Mutex::new(None);
            let matrix = QuantizedMatrix::quantize(format, dims, |rows, out| {
                match stored.widen(rows.start * dims.1..rows.end * dims.1) {
                    Ok(values) => out.copy_from_slice(&values),
                    Err(error) => {
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                }
            });
            return match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
                Some(error) => Err(error),
                None => Ok(Self::Cpu(Arc::new(matrix))),
            };
        }
        let dtype = match format {
            Format::Q8_0 => GgmlDType::Q8_0,
            Format::Q4K => GgmlDType::Q4K,
        };
        let tensor = stored.tensor(&Device::Cpu)?;
        let rounded = QTensor::quantize_onto(&tensor, dtype, device);
        let weight = on_device(name, rounded.and_then(QMatMul::from_qtensor))?;
        Ok(Self::Device(weight, format))
    }

    /// `x Wᵀ` for `x` `[rows, in]`, in the type of `x`.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the device fails.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cpu(matrix) => x.apply_op1_no_bwd(&MatmulT(matrix)),
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
            Self::Cpu(matrix) => out.inplace_op2(x, &MatmulT(matrix)),
            Self::Device(..) => candle_core::bail!("quantized-matmul-t: not on the CPU"),
        }
    }

    /// Format of the blocks.
    pub fn format(&self) -> Format {
        match self {
            Self::Cpu(matrix) => matrix.format(),
            Self::Device(_, format) => *format,
        }
    }

    /// Rows of the matrix; none if it is not on the CPU.
    pub(super) fn outputs(&self) -> Option<usize> {
        match self {
            Self::Cpu(matrix) => Some(matrix.dims().0),
            Self::Device(..) => None,
        }
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Cpu(matrix) => matrix.bytes(),
            Self::Device(QMatMul::QTensor(weight), _) => weight.storage_size_in_bytes(),
            Self::Device(QMatMul::Tensor(t) | QMatMul::TensorF16(t), _) => {
                t.elem_count() * t.dtype().size_in_bytes()
            }
        }
    }
}

struct MatmulT<'a>(&'a QuantizedMatrix);

impl CustomOp1 for MatmulT<'_> {
    fn name(&self) -> &'static str {
        "quantized-matmul-t"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((m, k), (n, columns)) = (layout.shape().dims2()?, self.0.dims());
        if k != columns {
            candle_core::bail!("quantized-matmul-t: [{m}, {k}] with [{n}, {columns}]");
        }
        let out = self.0.matmul_t(slice(x.as_slice::<f32>()?, layout)?, m);
        Ok((CpuStorage::F32(out), (m, n).into()))
    }
}

impl InplaceOp2 for MatmulT<'_> {
    fn name(&self) -> &'static str {
        "quantized-matmul-t"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        x: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (m, k) = layout.shape().dims2()?;
        let (n, columns) = self.0.dims();
        if k != columns || out_layout.shape().dims2()? != (m, n) {
            candle_core::bail!("quantized-matmul-t: [{m}, {k}] with [{n}, {columns}]");
        }
        let x = slice(x.as_slice::<f32>()?, layout)?;
        self.0.matmul_t_into(x, m, slice_mut(out, out_layout)?);
        Ok(())
    }
}

/// The requested format, and how many layers got another: `q4-k`, or `q4-k, 4 of 29 layers q8-0`.
/// None if none was requested.
pub(super) fn summary(asked: QuantizeAtLoad, layers: &[Option<Format>]) -> Option<String> {
    let wanted = match asked {
        QuantizeAtLoad::None => return None,
        QuantizeAtLoad::Q8_0 => Format::Q8_0,
        QuantizeAtLoad::Q4K => Format::Q4K,
    };
    let mut text = asked.as_str().to_owned();
    let others = [(Some(Format::Q8_0), "q8-0"), (None, "as stored")];
    for (other, name) in others
        .into_iter()
        .filter(|(other, _)| *other != Some(wanted))
    {
        let count = layers.iter().filter(|layer| **layer == other).count();
        if count > 0 {
            text += &format!(", {count} of {} layers {name}", layers.len());
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_tells_what_fell_back() {
        let layers = [Some(Format::Q4K), Some(Format::Q8_0), None];
        let told = |asked, layers: &[_]| summary(asked, layers);
        assert_eq!(told(QuantizeAtLoad::None, &layers), None);
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
}
