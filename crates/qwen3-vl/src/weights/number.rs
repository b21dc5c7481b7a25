//! Number types of stored weights.

use half::{bf16, f16};

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
