//! Sources of tensors: a file format implements these two traits.

use std::fmt::Debug;
use std::ops::Range;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Result as DeviceResult, Shape, Tensor};

use super::WeightsError;

/// Named tensors, whose shapes, types and sizes have been checked against the file.
pub(super) trait TensorSource: Debug + Send + Sync {
    /// Names of all tensors, as the file has them.
    fn names(&self) -> Vec<String>;

    /// Bytes of all tensors, as stored.
    fn size(&self) -> usize;

    /// The type of blocks that a tensor is stored in; none if it is plain numbers, or not there.
    fn blocks(&self, _name: &str) -> Option<GgmlDType> {
        None
    }

    /// What the file says of a tensor, whatever its shape.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Missing`], [`WeightsError::Type`].
    fn header(&self, name: &str) -> Result<TensorHeader, WeightsError>;

    /// A tensor, which must have that shape.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Missing`], [`WeightsError::Shape`], [`WeightsError::Type`].
    fn find<'a>(
        &'a self,
        name: &'a str,
        shape: &'a [usize],
    ) -> Result<Box<dyn StoredTensor + 'a>, WeightsError>;
}

/// What a file says of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TensorHeader {
    /// Its type; f32 if it is stored in blocks.
    pub dtype: DType,
    /// Its values.
    pub values: usize,
    /// Bytes in the file.
    pub bytes: usize,
}

/// A tensor in its file; its values are read on demand.
pub(crate) trait StoredTensor: Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// Its shape.
    fn shape(&self) -> &[usize];

    /// Its type in the file; f32 if it is stored in [blocks](StoredTensor::blocks).
    fn stored_dtype(&self) -> DType;

    /// The type of blocks that it is stored in; none if it is plain numbers.
    fn blocks(&self) -> Option<GgmlDType> {
        None
    }

    /// A copy, in [the type that it is read in](StoredTensor::dtype).
    ///
    /// # Errors
    ///
    /// If the file cannot be read any more, memory is lacking, a value is not finite, or values of
    /// this type are no weights by themselves.
    fn tensor(&self, device: &Device) -> Result<Tensor, WeightsError>;

    /// Some of its values as f32.
    ///
    /// # Errors
    ///
    /// See [`StoredTensor::tensor`].
    fn widen(&self, values: Range<usize>) -> Result<Vec<f32>, WeightsError>;

    /// Reads bytes from `first` on into `out`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read any more.
    fn read(&self, first: usize, out: &mut [u8]) -> Result<(), WeightsError>;

    /// Type in which it is read: that of the file, or f32 for f64.
    fn dtype(&self) -> DType {
        match self.stored_dtype() {
            DType::F64 => DType::F32,
            dtype => dtype,
        }
    }

    /// Bytes in the file.
    fn size(&self) -> usize {
        let values = self
            .shape()
            .iter()
            .fold(1, |n: usize, d| n.saturating_mul(*d));
        values.saturating_mul(self.stored_dtype().size_in_bytes())
    }

    /// Bytes of memory while it is converted to `dtype`: the values as read, and again as `dtype`
    /// if that differs.
    fn bytes(&self, dtype: DType) -> usize {
        let read = self.dtype().size_in_bytes();
        let again = match dtype == self.dtype() {
            true => 0,
            false => dtype.size_in_bytes(),
        };
        let values = self.shape().iter();
        let values = values.fold(1, |n: usize, d| n.saturating_mul(*d));
        values
            .saturating_mul(read + again)
            .saturating_add(self.scratch())
    }

    /// Bytes of memory that reading it takes beside its values.
    fn scratch(&self) -> usize {
        0
    }

    /// Its shape, if it is a matrix.
    ///
    /// # Errors
    ///
    /// If it has another number of axes.
    fn dims2(&self) -> DeviceResult<(usize, usize)> {
        Shape::from(self.shape()).dims2()
    }
}

/// Whether values of that type are weights by themselves.
pub(super) fn is_number(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::BF16 | DType::F16)
}

/// Why a tensor has no values that are weights by themselves.
pub(crate) fn no_number(name: &str, dtype: DType) -> WeightsError {
    WeightsError::Type {
        name: name.into(),
        dtype: type_name(dtype),
    }
}

/// What safetensors calls a type.
pub(crate) fn type_name(dtype: DType) -> String {
    match dtype {
        DType::F8E4M3 => "F8_E4M3".into(),
        other => other.as_str().to_ascii_uppercase(),
    }
}

/// Bytes that are compared at a time.
const CHUNK: usize = 256 << 10;

/// Whether two tensors have the same type, shape and values, byte for byte.
///
/// # Errors
///
/// If the file cannot be read any more.
pub(super) fn same(one: &dyn StoredTensor, other: &dyn StoredTensor) -> Result<bool, WeightsError> {
    let kind = |stored: &dyn StoredTensor| (stored.stored_dtype(), stored.blocks());
    if kind(one) != kind(other) || one.shape() != other.shape() {
        return Ok(false);
    }
    let bytes = one.size();
    let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
    for first in (0..bytes).step_by(CHUNK) {
        let length = CHUNK.min(bytes - first);
        one.read(first, &mut a[..length])?;
        other.read(first, &mut b[..length])?;
        if a[..length] != b[..length] {
            return Ok(false);
        }
    }
    Ok(true)
}
