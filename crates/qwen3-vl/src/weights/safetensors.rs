//! A safetensors file as a source of tensors.

use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Metadata, TensorInfo};

use super::bytes::{Source, WeightFile, cut_off};
use super::number::{Number, chunks, copy, narrow};
use super::source::{StoredTensor, TensorHeader, TensorSource, is_number, no_number};
use super::transposed::Transposed;
use super::{WeightsError, on_device};
use crate::file::{LFS_ADVICE, is_lfs_pointer};
use crate::quote::{quoted, shortened};

/// Most bytes of a header, a third of what the safetensors crate allows: those of the largest models
/// have about a hundred for each tensor, and parsed it takes ten times the memory.
const HEADER_LIMIT: u64 = 32 << 20;

/// One safetensors file whose header has been checked against its size.
#[derive(Debug)]
pub(super) struct Safetensors {
    /// Name in errors.
    file: String,
    source: Source,
    /// Offset of the first tensor in the file.
    data: u64,
    metadata: Metadata,
}

impl Safetensors {
    /// A file in a folder.
    pub(super) fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::of(WeightFile::open(path)?)
    }

    /// A file that may be elsewhere.
    pub(super) fn of(file: WeightFile) -> Result<Self, WeightsError> {
        Self::new(&file.name, file.source, file.length)
    }

    /// A file that is part of the program.
    pub(super) fn embedded(bytes: &'static [u8]) -> Result<Self, WeightsError> {
        let length = bytes.len() as u64;
        Self::new("the embedded model", Source::Static(bytes), length)
    }

    fn new(file: &str, source: Source, length: u64) -> Result<Self, WeightsError> {
        let damaged = |reason: String| WeightsError::Damaged {
            file: shortened(file),
            reason,
        };
        let mut start = [0; 8];
        if length < 8 {
            return Err(damaged(format!("it has {length} bytes")));
        }
        source.read(0, &mut start).map_err(|e| cut_off(file, &e))?;
        if is_lfs_pointer_start(&start) && length < 1024 {
            let mut text = vec![0; length as usize];
            source.read(0, &mut text).map_err(|e| cut_off(file, &e))?;
            if is_lfs_pointer(&text) {
                return Err(WeightsError::Pointer(shortened(file)));
            }
        }
        let header = u64::from_le_bytes(start);
        if header > HEADER_LIMIT || header > length - 8 {
            return Err(damaged(format!("its header would have {header} bytes")));
        }
        let mut json = vec![0; header as usize];
        source.read(8, &mut json).map_err(|e| cut_off(file, &e))?;
        // Parsing checks that shapes, types and offsets agree.
        let metadata: Metadata =
            serde_json::from_slice(&json).map_err(|e| damaged(shortened(e)))?;
        let data = 8 + header;
        let expected = data.checked_add(metadata.data_len() as u64);
        if expected != Some(length) {
            return Err(damaged(format!(
                "it has {length} bytes, by its header {}",
                expected.map_or("more".into(), |expected| expected.to_string())
            )));
        }
        Ok(Self {
            file: file.into(),
            source,
            data,
            metadata,
        })
    }
}

impl Safetensors {
    /// Shape of a tensor; none if there is none of that name.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.metadata.info(name)?.shape)
    }

    /// A part of the tensor `whole` as a tensor of its own: from its value `first` on, row by row
    /// or transposed.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Missing`], [`WeightsError::Type`]. The shape must fit.
    pub(super) fn part<'a>(
        &'a self,
        whole: &str,
        name: &'a str,
        shape: &'a [usize],
        first: usize,
        transposed: Option<Transposed>,
    ) -> Result<Box<dyn StoredTensor + 'a>, WeightsError> {
        let (info, dtype) = self.info(whole)?;
        let start = info.data_offsets.0 + first * dtype.size_in_bytes();
        Ok(Box::new(Stored {
            file: self,
            name,
            start: self.data + start as u64,
            dtype,
            shape,
            transposed,
        }))
    }

    fn info(&self, name: &str) -> Result<(&TensorInfo, DType), WeightsError> {
        let info = self.metadata.info(name);
        let info = info.ok_or_else(|| WeightsError::Missing(name.into()))?;
        let dtype = match info.dtype {
            safetensors::Dtype::F64 => DType::F64,
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F16 => DType::F16,
            // Parts of quantised layers.
            safetensors::Dtype::F8_E4M3 => DType::F8E4M3,
            safetensors::Dtype::I64 => DType::I64,
            safetensors::Dtype::I32 => DType::I32,
            safetensors::Dtype::U8 => DType::U8,
            other => {
                return Err(WeightsError::Type {
                    name: name.into(),
                    dtype: other.to_string(),
                });
            }
        };
        Ok((info, dtype))
    }
}

impl TensorSource for Safetensors {
    fn names(&self) -> Vec<String> {
        self.metadata.tensors().into_keys().collect()
    }

    fn size(&self) -> usize {
        self.metadata.data_len()
    }

    fn header(&self, name: &str) -> Result<TensorHeader, WeightsError> {
        let (info, dtype) = self.info(name)?;
        let bytes = info.data_offsets.1.saturating_sub(info.data_offsets.0);
        Ok(TensorHeader {
            dtype,
            values: bytes / dtype.size_in_bytes().max(1),
            bytes,
        })
    }

    fn find<'a>(
        &'a self,
        name: &'a str,
        shape: &'a [usize],
    ) -> Result<Box<dyn StoredTensor + 'a>, WeightsError> {
        let (info, dtype) = self.info(name)?;
        if info.shape != shape {
            return Err(WeightsError::Shape {
                name: name.into(),
                found: info.shape.clone(),
                expected: shape.into(),
            });
        }
        Ok(Box::new(Stored {
            file: self,
            name,
            start: self.data + info.data_offsets.0 as u64,
            dtype,
            shape,
            transposed: None,
        }))
    }
}

/// Whether these are the first 8 bytes of a pointer, see [`is_lfs_pointer`].
fn is_lfs_pointer_start(start: &[u8; 8]) -> bool {
    start == b"version "
}

/// A tensor in its file.
struct Stored<'a> {
    file: &'a Safetensors,
    name: &'a str,
    /// Offset of its first byte in the file.
    start: u64,
    dtype: DType,
    shape: &'a [usize],
    /// Set if the matrix is transposed in the file.
    transposed: Option<Transposed>,
}

impl StoredTensor for Stored<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn stored_dtype(&self) -> DType {
        self.dtype
    }

    fn tensor(&self, device: &Device) -> Result<Tensor, WeightsError> {
        match self.dtype {
            DType::BF16 => copy(self, device, |number: bf16| number),
            DType::F16 => copy(self, device, |number: f16| number),
            DType::F64 => copy(self, device, narrow),
            DType::F32 => copy(self, device, |number: f32| number),
            other => Err(no_number(self.name, other)),
        }
    }

    fn widen(&self, values: Range<usize>) -> Result<Vec<f32>, WeightsError> {
        if !is_number(self.dtype) {
            return Err(no_number(self.name, self.dtype));
        }
        let mut out = Vec::with_capacity(values.len());
        let size = self.dtype.size_in_bytes();
        chunks(self, values, size, |bytes| match self.dtype {
            DType::BF16 => bf16::append(bytes, &mut out, bf16::to_f32),
            DType::F16 => f16::append(bytes, &mut out, f16::to_f32),
            DType::F64 => f64::append(bytes, &mut out, narrow),
            _ => f32::append(bytes, &mut out, |number| number),
        })?;
        Ok(out)
    }

    fn read(&self, first: usize, out: &mut [u8]) -> Result<(), WeightsError> {
        let Some(transposed) = &self.transposed else {
            return self.read_file(first, out);
        };
        let (size, dims) = (
            self.dtype.size_in_bytes(),
            on_device(self.name, self.dims2())?,
        );
        let read = |first, out: &mut [u8]| self.read_file(first, out);
        let bytes = transposed.bytes(self.name, dims, size, read)?;
        out.copy_from_slice(&bytes[first..][..out.len()]);
        Ok(())
    }

    fn scratch(&self) -> usize {
        match self.transposed {
            Some(_) => self.size(),
            None => 0,
        }
    }
}

impl Stored<'_> {
    /// Bytes of the file, `first` of them behind its start.
    fn read_file(&self, first: usize, out: &mut [u8]) -> Result<(), WeightsError> {
        let read = self.file.source.read(self.start + first as u64, out);
        read.map_err(|e| cut_off(&self.file.file, &e))
    }
}

/// The error text for a Git LFS pointer in place of a file.
pub(super) fn pointer(file: &str) -> String {
    format!("{}: {LFS_ADVICE}", quoted(file))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::weights::number::CHUNK;
    use crate::weights::source::same;

    /// A file of two tensors of equal size.
    fn file(a: &[f32], b: &[f32]) -> Safetensors {
        let (count, bytes) = (a.len(), size_of_val(a));
        let header = json!({
            "a": {"dtype": "F32", "shape": [count], "data_offsets": [0, bytes]},
            "b": {"dtype": "F32", "shape": [count], "data_offsets": [bytes, 2 * bytes]},
        });
        let header = header.to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(a.iter().chain(b).flat_map(|value| value.to_le_bytes()));
        Safetensors::embedded(file.leak()).unwrap()
    }

    #[test]
    fn values_are_read_and_compared_to_the_last_one() {
        let count = 3 * CHUNK / 4 + 5;
        let shape = [count];
        let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
        let with_last = |last: f32| {
            let mut other = values.clone();
            other[count - 1] = last;
            file(&values, &other)
        };
        let equal = with_last(values[count - 1]);
        let (a, b) = (equal.find("a", &shape).unwrap(), equal.find("b", &shape));
        assert!(same(&*a, &*b.unwrap()).unwrap());
        let all = a.tensor(&Device::Cpu).unwrap();
        assert_eq!(all.to_vec1::<f32>().unwrap(), values);
        let part = 7..count - 1;
        assert_eq!(a.widen(part.clone()).unwrap(), values[part]);

        let other = with_last(0.0);
        let (a, b) = (other.find("a", &shape).unwrap(), other.find("b", &shape));
        assert!(!same(&*a, &*b.unwrap()).unwrap());
        let infinite = with_last(f32::INFINITY);
        let error = infinite.find("b", &shape).unwrap().tensor(&Device::Cpu);
        assert!(matches!(error, Err(WeightsError::NotFinite(name)) if name == "b"));
    }
}
