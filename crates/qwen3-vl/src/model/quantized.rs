//! Weights of 8 or 4 bits, rounded while a checkpoint is loaded.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{
    CpuStorage, CustomOp1, DType, Device, InplaceOp2, Layout, Module, Result, Shape, Tensor,
};

use super::linear::{slice, slice_mut};
use super::shard::Stored;
use super::weights::{WeightsError, on_device};
use crate::cpu::quantized::{Format, QuantizedMatrix};
use crate::device::UnknownChoice;

/// To what the linear layers of the language model are rounded. Norms, embeddings and the vision
/// tower stay in the type that `dtype` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Quantization {
    /// Nothing: every weight in the type that `dtype` says.
    #[default]
    None,
    /// 8 bits, ggml's `Q8_0`: 34 bytes for 32 weights.
    Q8_0,
    /// 4 bits, ggml's `Q4_K`: 144 bytes for 256 weights.
    Q4K,
}

impl Quantization {
    /// Its name, as it is parsed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Q8_0 => "q8-0",
            Self::Q4K => "q4-k",
        }
    }

    /// What a layer of this input width gets. Blocks lie within a row: where the width is no multiple
    /// of 256, 4 bits give way to 8, and where it is none of 32, the weights stay as they are.
    pub(super) fn format(self, width: usize) -> Option<Format> {
        let wanted: &[Format] = match self {
            Self::None => &[],
            Self::Q8_0 => &[Format::Q8_0],
            Self::Q4K => &[Format::Q4K, Format::Q8_0],
        };
        let fits = |format: &&Format| width.is_multiple_of(format.block());
        wanted.iter().find(fits).copied()
    }
}

impl FromStr for Quantization {
    type Err = UnknownChoice;

    /// `none`, `q8-0` or `q4-k`.
    fn from_str(name: &str) -> std::result::Result<Self, UnknownChoice> {
        [Self::None, Self::Q8_0, Self::Q4K]
            .into_iter()
            .find(|choice| choice.as_str() == name)
            .ok_or_else(|| UnknownChoice {
                what: "quantization",
                name: name.into(),
                choices: "none, q8-0 or q4-k",
            })
    }
}

/// A rounded weight `[out, in]`.
#[derive(Clone, Debug)]
pub enum QuantizedWeight {
    /// For the kernels of [`crate::cpu::quantized`].
    Cpu(Arc<QuantizedMatrix>),
    /// For candle's, elsewhere.
    Device(QMatMul, Format),
}

impl QuantizedWeight {
    /// Rounds a matrix of a checkpoint, straight from its file.
    pub(super) fn new(
        stored: &Stored<'_>,
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
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cpu(matrix) => x.apply_op1_no_bwd(&MatmulT(matrix)),
            Self::Device(weight, _) => weight
                .forward(&x.to_dtype(DType::F32)?)?
                .to_dtype(x.dtype()),
        }
    }

    /// [`QuantizedWeight::forward`] into `out`, on the CPU.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the device is another.
    pub(super) fn forward_into(&self, x: &Tensor, out: &Tensor) -> Result<()> {
        match self {
            Self::Cpu(matrix) => out.inplace_op2(x, &MatmulT(matrix)),
            Self::Device(..) => candle_core::bail!("quantized-matmul-t: not on the CPU"),
        }
    }

    /// What the weights are rounded to.
    pub fn format(&self) -> Format {
        match self {
            Self::Cpu(matrix) => matrix.format(),
            Self::Device(_, format) => *format,
        }
    }

    /// Rows of the matrix.
    ///
    /// # Errors
    ///
    /// If the weight is not on the CPU.
    pub(super) fn outputs(&self) -> Result<usize> {
        match self {
            Self::Cpu(matrix) => Ok(matrix.dims().0),
            Self::Device(..) => candle_core::bail!("quantized-matmul-t: not on the CPU"),
        }
    }

    /// Memory that the weights take.
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

/// What was asked for, and how many layers got something else: `q4-k`, or
/// `q4-k, 4 of 29 layers q8-0`. None if nothing was asked for.
pub(crate) fn summary(asked: Quantization, layers: &[Option<Format>]) -> Option<String> {
    let wanted = match asked {
        Quantization::None => return None,
        Quantization::Q8_0 => Format::Q8_0,
        Quantization::Q4K => Format::Q4K,
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
    fn widths_without_whole_blocks_fall_back() {
        assert_eq!(Quantization::Q4K.format(512), Some(Format::Q4K));
        assert_eq!(Quantization::Q4K.format(384), Some(Format::Q8_0));
        assert_eq!(Quantization::Q8_0.format(2048), Some(Format::Q8_0));
        assert_eq!(Quantization::Q8_0.format(48), None);
        assert_eq!(Quantization::Q4K.format(48), None);
        assert_eq!(Quantization::None.format(2048), None);
    }

    #[test]
    fn the_summary_tells_what_fell_back() {
        let layers = [Some(Format::Q4K), Some(Format::Q8_0), None];
        let told = |asked, layers: &[_]| summary(asked, layers);
        assert_eq!(told(Quantization::None, &layers), None);
        assert_eq!(
            told(Quantization::Q4K, &layers[..1]).as_deref(),
            Some("q4-k")
        );
        assert_eq!(
            told(Quantization::Q4K, &layers).as_deref(),
            Some("q4-k, 1 of 3 layers q8-0, 1 of 3 layers as stored")
        );
        assert_eq!(
            told(Quantization::Q8_0, &layers[1..]).as_deref(),
            Some("q8-0, 1 of 2 layers as stored")
        );
    }

    #[test]
    fn names_are_parsed() {
        for choice in [Quantization::None, Quantization::Q8_0, Quantization::Q4K] {
            assert_eq!(choice.as_str().parse(), Ok(choice));
        }
        assert!("q5".parse::<Quantization>().is_err());
    }
}
