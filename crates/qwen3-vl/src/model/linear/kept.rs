//! Memory that a linear layer will take, by what the headers of the files say.

use super::fp8;
use super::method::{Stored, quantised_as};
use crate::cpu::bf16::Bf16Matrix;
use crate::cpu::int8::Int8Matrix;
use crate::cpu::quantized::QuantizedMatrix;
use crate::weights::{QuantizeAtLoad, Rounding, Weights, WeightsError};

/// How a matrix is stored, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    /// Numbers, ggml's blocks, or integers in words, of so many bytes in all.
    AsStored(u64),
    /// FP8 with so many scales.
    Fp8(u64),
}

impl Storage {
    /// Bytes of a matrix of `values`.
    fn bytes(self, values: u64) -> u64 {
        match self {
            Self::AsStored(bytes) => bytes,
            // Scales are kept in f32.
            Self::Fp8(scales) => values.saturating_add(scales.saturating_mul(4)),
        }
    }
}

/// Bytes of the matrix of the layer `name`, if layers are rounded like that: what
/// [`Linear::bytes`](super::Linear::bytes) will be. Zero points of integers count although they are
/// not kept where all are the same.
///
/// # Errors
///
/// Those of loading it, as far as headers tell.
pub(crate) fn kept_bytes(
    weights: &Weights,
    name: &str,
    shape: (usize, usize),
    rounded: QuantizeAtLoad,
) -> Result<u64, WeightsError> {
    let values = shape.0.saturating_mul(shape.1) as u64;
    let tensor = format!("{name}.weight");
    if weights.has_blocks(&tensor) {
        return blocks_bytes(weights, &tensor, shape, weights.int8());
    }
    let stored = Stored::of(weights, name, shape)?;
    let storage = match (&stored, rounded.rounding(shape.1)) {
        (Stored::Plain, Some(Rounding::Ggml(format))) if weights.int8() => {
            Storage::AsStored(QuantizedMatrix::size(format, shape) as u64)
        }
        (Stored::Plain, Some(rounding)) => Storage::AsStored(rounding.bytes(shape) as u64),
        (_, Some(_)) => {
            return Err(WeightsError::Quantised {
                name: name.into(),
                format: quantised_as(weights),
            });
        }
        (Stored::Plain, None) => {
            Storage::AsStored(plain_bytes(weights, &tensor, &[shape.0, shape.1])?)
        }
        (Stored::Fp8, None) => Storage::Fp8(scales(weights, name)?),
        (Stored::Packed(integers), None) => Storage::AsStored(packed(weights, name, integers)?),
    };
    Ok(storage.bytes(values))
}

/// Bytes of a matrix in ggml's blocks, if they are multiplied as `int8` says.
///
/// # Errors
///
/// Those of loading it, as far as headers tell.
pub(crate) fn blocks_bytes(
    weights: &Weights,
    name: &str,
    shape: (usize, usize),
    int8: bool,
) -> Result<u64, WeightsError> {
    let dims = [shape.0, shape.1];
    let stored = weights.header_of(name, &dims)?.bytes;
    let dtype = weights.block_dtype(name).filter(|_| int8);
    let taken_apart = dtype.and_then(|dtype| Int8Matrix::size(dtype, shape));
    Ok(taken_apart.unwrap_or(stored) as u64)
}

/// Bytes of a matrix in plain numbers; the axes of `shape` behind the first are inputs.
///
/// # Errors
///
/// Those of loading it, as far as headers tell.
pub(crate) fn plain_bytes(
    weights: &Weights,
    name: &str,
    shape: &[usize],
) -> Result<u64, WeightsError> {
    let header = weights.header_of(name, shape)?;
    let bytes = match (weights.bf16(), shape) {
        (Some(_), [rows, inputs @ ..]) => Bf16Matrix::size(*rows, inputs.iter().product()),
        _ => {
            let each = weights.kept_dtype(header.dtype).size_in_bytes();
            header.values.saturating_mul(each)
        }
    };
    Ok(bytes as u64)
}

/// The scales of a layer in FP8.
fn scales(weights: &Weights, name: &str) -> Result<u64, WeightsError> {
    let mut names = fp8::SCALES.iter().map(|part| format!("{name}.{part}"));
    let found = names.find(|name| weights.contains(name));
    let header = found.map(|name| weights.header(&name)).transpose()?;
    Ok(header.map_or(0, |header| header.values as u64))
}

/// Integers and scales stay as they are, zero points get a byte each.
fn packed(weights: &Weights, name: &str, integers: &str) -> Result<u64, WeightsError> {
    let header = |part: &str| {
        let name = format!("{name}.{part}");
        let there = weights.contains(&name).then(|| weights.header(&name));
        there.transpose()
    };
    let integers = header(integers)?.map_or(0, |header| header.bytes);
    let (mut scales, mut groups) = (0, 0);
    for part in ["scales", "weight_scale"] {
        if let Some(found) = header(part)? {
            (scales, groups) = (found.bytes, found.values);
        }
    }
    let zeros = header("qzeros")?.is_some() || header("weight_zero_point")?.is_some();
    let zeros = if zeros { groups } else { 0 };
    Ok((integers.saturating_add(scales).saturating_add(zeros)) as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::quantized::Format;

    proptest! {
        /// Fewer bits take less memory.
        #[test]
        fn bytes_follow_the_bits(rows in 1..5000_u64, blocks in 1..200_u64) {
            let values = rows * blocks * 256;
            let of = |format: Format| format.bytes(values as usize) as u64;
            let (four, eight) = (of(Format::Q4K), of(Format::Q8_0));
            let fp8 = Storage::Fp8(rows.div_ceil(128) * (blocks * 2)).bytes(values);
            prop_assert!(four < fp8 && fp8 < eight + values && eight < 2 * values);
        }

        /// Whatever a hostile header claims, nothing overflows.
        #[test]
        fn nothing_overflows(values: u64, other: u64) {
            for storage in [Storage::AsStored(other), Storage::Fp8(other)] {
                let _ = storage.bytes(values);
            }
        }
    }
}
