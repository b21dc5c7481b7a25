//! Number types of stored weights.

use std::ops::Range;

use candle_core::{Device, Tensor, WithDType};
use half::{bf16, f16};

use super::source::StoredTensor;
use super::{WeightsError, on_device};

/// Bytes that are read at a time: what is read stays in the processor's cache until it is
/// converted.
pub(super) const CHUNK: usize = 256 << 10;

/// A type that weights are stored in.
pub(super) trait Number: Copy {
    /// Appends little-endian numbers to `out`; true if all are finite.
    fn append<O>(bytes: &[u8], out: &mut Vec<O>, convert: impl Fn(Self) -> O) -> bool;
}

macro_rules! number {
    ($type:ty, $bits:ty) => {
        impl Number for $type {
            fn append<O>(bytes: &[u8], out: &mut Vec<O>, convert: impl Fn(Self) -> O) -> bool {
                let (numbers, _) = bytes.as_chunks();
                out.extend(numbers.iter().map(|n| convert(Self::from_le_bytes(*n))));
                // NaN and infinities have all bits of the exponent set. The loop has no early exit,
                // so that it is vectorized.
                let exponent = Self::INFINITY.to_bits();
                numbers.iter().fold(true, |finite, number| {
                    finite & (<$bits>::from_le_bytes(*number) & exponent != exponent)
                })
            }
        }
    };
}

number!(bf16, u16);
number!(f16, u16);
number!(f32, u32);

impl Number for f64 {
    fn append<O>(bytes: &[u8], out: &mut Vec<O>, convert: impl Fn(Self) -> O) -> bool {
        let (numbers, _) = bytes.as_chunks();
        let numbers = numbers.iter().map(|n| Self::from_le_bytes(*n));
        out.extend(numbers.clone().map(convert));
        // Values beyond the range of f32 count as not finite too.
        numbers.fold(true, |finite, number| finite & narrow(number).is_finite())
    }
}

/// The nearest f32.
pub(super) fn narrow(number: f64) -> f32 {
    number as f32
}

/// A tensor of plain numbers, each converted.
///
/// # Errors
///
/// A file that cannot be read any more, no memory, a value that is not finite.
pub(super) fn copy<S: Number, T: WithDType>(
    stored: &dyn StoredTensor,
    device: &Device,
    convert: impl Fn(S) -> T,
) -> Result<Tensor, WeightsError> {
    let (name, count) = (stored.name(), stored.shape().iter().product());
    let mut values: Vec<T> = Vec::new();
    let room = values.try_reserve_exact(count);
    room.map_err(|_| WeightsError::Memory(name.into()))?;
    chunks(stored, 0..count, size_of::<S>(), |bytes| {
        S::append(bytes, &mut values, &convert)
    })?;
    on_device(name, Tensor::from_vec(values, stored.shape(), device))
}

/// Gives the bytes of some values, in pieces of whole values, to `each`, which says whether they
/// are finite.
///
/// # Errors
///
/// A file that cannot be read any more, a value that is not finite.
pub(super) fn chunks(
    stored: &dyn StoredTensor,
    values: Range<usize>,
    size: usize,
    mut each: impl FnMut(&[u8]) -> bool,
) -> Result<(), WeightsError> {
    let most = CHUNK / size * size;
    let mut buffer = vec![0; most.min(values.len() * size)];
    let (mut first, end) = (values.start * size, values.end * size);
    while first < end {
        let piece = &mut buffer[..most.min(end - first)];
        stored.read(first, piece)?;
        if !each(piece) {
            return Err(WeightsError::NotFinite(stored.name().into()));
        }
        first += piece.len();
    }
    Ok(())
}
