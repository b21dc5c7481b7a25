//! The tensors of a GGUF file, by Hugging Face's names.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use super::super::bytes::cut_off;
use super::super::number::{Number, chunks, copy};
use super::super::source::{StoredTensor, TensorHeader, TensorSource};
use super::super::{WeightsError, on_device};
use super::names::{self, PATCH_1, Part, Place};
use super::types::TensorType;
use super::{Gguf, TensorInfo};
use crate::cpu::blocks::BlockFormat;

/// One file as a source of tensors.
#[derive(Debug)]
pub(in crate::weights) struct GgufTensors {
    file: Arc<Gguf>,
    places: HashMap<String, Place>,
}

impl GgufTensors {
    pub(in crate::weights) fn new(file: Arc<Gguf>) -> Result<Self, WeightsError> {
        let places = names::places(&file)?;
        Ok(Self { file, places })
    }

    fn info(&self, tensor: &str) -> Result<&TensorInfo, WeightsError> {
        let info = self.file.tensor(tensor);
        info.ok_or_else(|| WeightsError::Missing(tensor.into()))
    }

    fn place(&self, name: &str) -> Result<(&TensorInfo, Part), WeightsError> {
        let place = self.places.get(name);
        let place = place.ok_or_else(|| WeightsError::Missing(name.into()))?;
        Ok((self.info(&place.tensor)?, place.part))
    }

    /// Where a tensor's bytes are, and its shape.
    fn layout(&self, name: &str) -> Result<(Layout, Vec<usize>, TensorType), WeightsError> {
        let (info, part) = self.place(name)?;
        let shape = info.shape.clone();
        Ok(match (part, shape.as_slice()) {
            (Part::Expert(expert), &[experts, ref matrix @ ..]) => {
                let bytes = info.bytes / experts.max(1);
                let start = info.start + (expert * bytes) as u64;
                (Layout::One(start), matrix.into(), info.dtype)
            }
            (Part::Frame, &[width, colours, rows, columns]) => {
                let second = self.info(PATCH_1)?;
                if second.shape != info.shape || second.dtype != info.dtype {
                    let reason = "its v.patch_embd.weight is not like v.patch_embd.weight.1";
                    return Err(self.file.metadata().error(reason).into());
                }
                let layout = Layout::Two {
                    starts: [info.start, second.start],
                    bytes: info.bytes / (width * colours).max(1),
                };
                let shape = vec![width, colours, 2, rows, columns];
                (layout, shape, info.dtype)
            }
            (_, shape) => (Layout::One(info.start), shape.into(), info.dtype),
        })
    }
}

impl TensorSource for GgufTensors {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn size(&self) -> usize {
        self.file.size()
    }

    fn blocks(&self, name: &str) -> Option<GgmlDType> {
        match self.place(name).ok()?.0.dtype {
            TensorType::Blocks(dtype) => Some(dtype),
            TensorType::Plain(_) => None,
        }
    }

    fn header(&self, name: &str) -> Result<TensorHeader, WeightsError> {
        let (_, shape, dtype) = self.layout(name)?;
        let values = shape.iter().fold(1, |n: usize, d| n.saturating_mul(*d));
        let blocks = values / dtype.block() as usize;
        Ok(TensorHeader {
            dtype: match dtype {
                TensorType::Plain(dtype) => dtype,
                TensorType::Blocks(_) => DType::F32,
            },
            values,
            bytes: blocks.saturating_mul(dtype.block_bytes() as usize),
        })
    }

    fn find<'a>(
        &'a self,
        name: &'a str,
        shape: &'a [usize],
    ) -> Result<Box<dyn StoredTensor + 'a>, WeightsError> {
        let (layout, found, dtype) = self.layout(name)?;
        if found != shape {
            return Err(WeightsError::Shape {
                name: name.into(),
                found,
                expected: shape.into(),
            });
        }
        Ok(Box::new(Stored {
            file: &self.file,
            name,
            layout,
            dtype,
            shape,
        }))
    }
}

/// Where the bytes of a tensor are.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// In sequence from there on.
    One(u64),
    /// In two tensors, of which pieces of that many bytes take turns.
    Two { starts: [u64; 2], bytes: usize },
}

/// A tensor in its file.
struct Stored<'a> {
    file: &'a Gguf,
    name: &'a str,
    layout: Layout,
    dtype: TensorType,
    shape: &'a [usize],
}

impl StoredTensor for Stored<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn stored_dtype(&self) -> DType {
        match self.dtype {
            TensorType::Plain(dtype) => dtype,
            TensorType::Blocks(_) => DType::F32,
        }
    }

    fn blocks(&self) -> Option<GgmlDType> {
        match self.dtype {
            TensorType::Plain(_) => None,
            TensorType::Blocks(dtype) => Some(dtype),
        }
    }

    fn size(&self) -> usize {
        let values = self
            .shape
            .iter()
            .fold(1, |n: usize, d| n.saturating_mul(*d));
        let blocks = values / self.dtype.block() as usize;
        blocks.saturating_mul(self.dtype.block_bytes() as usize)
    }

    fn tensor(&self, device: &Device) -> Result<Tensor, WeightsError> {
        match self.dtype {
            TensorType::Plain(DType::BF16) => copy(self, device, |number: bf16| number),
            TensorType::Plain(DType::F16) => copy(self, device, |number: f16| number),
            TensorType::Plain(_) => copy(self, device, |number: f32| number),
            TensorType::Blocks(_) => {
                let values = self.widen(0..self.shape.iter().product())?;
                on_device(self.name, Tensor::from_vec(values, self.shape, device))
            }
        }
    }

    fn widen(&self, values: Range<usize>) -> Result<Vec<f32>, WeightsError> {
        let mut out = Vec::new();
        let room = out.try_reserve_exact(values.len());
        room.map_err(|_| WeightsError::Memory(self.name.into()))?;
        match self.dtype {
            TensorType::Plain(DType::BF16) => chunks(self, values, 2, |bytes| {
                bf16::append(bytes, &mut out, bf16::to_f32)
            })?,
            TensorType::Plain(DType::F16) => chunks(self, values, 2, |bytes| {
                f16::append(bytes, &mut out, f16::to_f32)
            })?,
            TensorType::Plain(_) => chunks(self, values, 4, |bytes| {
                f32::append(bytes, &mut out, |number| number)
            })?,
            TensorType::Blocks(dtype) => self.widen_blocks(dtype, values, &mut out)?,
        }
        Ok(out)
    }

    fn read(&self, first: usize, out: &mut [u8]) -> Result<(), WeightsError> {
        let read = |start: u64, out: &mut [u8]| {
            let read = self.file.source.read(start, out);
            read.map_err(|e| cut_off(self.file.file(), &e))
        };
        match self.layout {
            Layout::One(start) => read(start + first as u64, out),
            Layout::Two { starts, bytes } => {
                let (mut first, mut rest) = (first, out);
                while !rest.is_empty() {
                    let (piece, inside) = (first / bytes, first % bytes);
                    let (now, later) = rest.split_at_mut(rest.len().min(bytes - inside));
                    let start = starts[piece % 2] + (piece / 2 * bytes + inside) as u64;
                    read(start, now)?;
                    first += now.len();
                    rest = later;
                }
                Ok(())
            }
        }
    }
}

impl Stored<'_> {
    /// The blocks that hold these values, and of those what was asked for.
    fn widen_blocks(
        &self,
        dtype: GgmlDType,
        values: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<(), WeightsError> {
        let format = BlockFormat::of(dtype).ok_or_else(|| WeightsError::Type {
            name: self.name.into(),
            dtype: format!("{dtype:?}"),
        })?;
        let (weights, bytes) = (format.weights(), format.bytes());
        let blocks = values.start / weights..values.end.div_ceil(weights);
        // As many blocks as the buffers hold together.
        let mut wide = Vec::new();
        let mut first = blocks.start * weights;
        chunks(self, blocks, bytes, |piece| {
            wide.resize(piece.len() / bytes * weights, 0.0);
            format.widen(piece, &mut wide);
            let here = first..first + wide.len();
            let from = values.start.clamp(here.start, here.end) - first;
            let to = values.end.clamp(here.start, here.end) - first;
            out.extend_from_slice(&wide[from..to]);
            first = here.end;
            format.is_finite(piece)
        })
    }
}
