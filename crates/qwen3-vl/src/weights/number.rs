//! Numbers as weights are stored.

use half::{bf16, f16};

/// A type that weights are stored in.
pub(super) trait Number: Copy {
    /// Reads numbers, least byte first, behind `out`; whether all of them are finite.
    fn append<O>(bytes: &[u8], out: &mut Vec<O>, convert: impl Fn(Self) -> O) -> bool;
}

macro_rules! number {
    ($type:ty, $bits:ty) => {
        impl Number for $type {
            fn append<O>(bytes: &[u8], out: &mut Vec<O>, convert: impl Fn(Self) -> O) -> bool {
                let (numbers, _) = bytes.as_chunks();
                out.extend(numbers.iter().map(|n| convert(Self::from_le_bytes(*n))));
                // What is no number has all bits of the exponent; a loop without a way out is one
                // that the processor does many of at a time.
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
        // Also those that f32 has no number for.
        numbers.fold(true, |finite, number| finite & narrow(number).is_finite())
    }
}

/// The nearest f32.
pub(super) fn narrow(number: f64) -> f32 {
    number as f32
}
