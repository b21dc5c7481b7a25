//! Weights in FP8 (E4M3, without infinities), with a scale for each block.
//!
//! Weight = value * scale, in f32 (transformers: `Fp8Dequantize`).

mod round;

use std::ops::Range;

use super::widen::{WidenRows, matmul_t_widened};

/// What a byte has in all places but the sign if it is no number.
const NAN: u8 = 0x7f;
/// The largest value.
const LARGEST: f32 = 448.0;

/// A matrix `[rows, columns]` of bytes, with a scale for each block of it.
pub struct Fp8Matrix {
    rows: usize,
    columns: usize,
    bytes: Vec<u8>,
    /// Rows and columns of a block; the last ones may be smaller.
    block: (usize, usize),
    /// Row by row.
    scales: Vec<f32>,
}

/// Whether all of these bytes are numbers.
pub fn are_numbers(bytes: &[u8]) -> bool {
    // Without a way out, so that the processor does many at a time.
    bytes
        .iter()
        .fold(true, |all, byte| all & (byte & NAN != NAN))
}

/// Whether all weights of this scale are finite.
pub fn is_scale(scale: f32) -> bool {
    (scale * LARGEST).is_finite()
}

/// How many blocks of that size cover a matrix, down and across.
pub fn blocks((rows, columns): (usize, usize), block: (usize, usize)) -> (usize, usize) {
    (
        rows.div_ceil(block.0.max(1)),
        columns.div_ceil(block.1.max(1)),
    )
}

impl Fp8Matrix {
    /// A matrix of these bytes and these scales `blocks(..)`, both row by row.
    ///
    /// # Panics
    ///
    /// If there are too few or too many of them.
    pub fn new(
        (rows, columns): (usize, usize),
        bytes: Vec<u8>,
        block: (usize, usize),
        scales: Vec<f32>,
    ) -> Self {
        let (down, across) = blocks((rows, columns), block);
        assert!(bytes.len() == rows * columns, "fp8: values");
        assert!(scales.len() == down * across, "fp8: scales");
        // Smaller scales are multiplied without a special case.
        assert!(scales.iter().all(|scale| is_scale(*scale)), "fp8: finite");
        Self {
            rows,
            columns,
            bytes,
            block,
            scales,
        }
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Its bytes, rows and columns of a block, and the scales.
    pub(super) fn parts(&self) -> (&[u8], (usize, usize), &[f32]) {
        (&self.bytes, self.block, &self.scales)
    }

    /// Memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + size_of_val(self.scales.as_slice())
    }

    /// `x[m, columns] Wᵀ` into `out` `[m, rows]`, whatever that holds, all row-major.
    ///
    /// # Panics
    ///
    /// If `x` or `out` does not have the size.
    pub fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        matmul_t_widened(x, self, (m, self.rows, self.columns), out);
    }
}

impl std::fmt::Debug for Fp8Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fp8 [{}, {}]", self.rows, self.columns)
    }
}

impl WidenRows for Fp8Matrix {
    fn columns(&self) -> usize {
        self.columns
    }

    fn widen(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        let first = columns.start;
        let bytes = &self.bytes[row * self.columns + first..][..columns.len()];
        let across = self.columns.div_ceil(self.block.1);
        let scales = &self.scales[row / self.block.0 * across..][..across];
        let line = Line {
            bytes,
            first,
            scales,
            block: self.block.1,
        };
        #[cfg(target_arch = "x86_64")]
        if x86::available() {
            // SAFETY: the instructions are there.
            return unsafe { x86::widen(&line, out) };
        }
        line.blocks(out, |bytes, scale, out| {
            for (out, byte) in out.iter_mut().zip(bytes) {
                *out = value(*byte) * scale;
            }
        });
    }
}

/// Part of a row.
struct Line<'a> {
    bytes: &'a [u8],
    /// Column of the first byte.
    first: usize,
    /// Of all blocks of the row.
    scales: &'a [f32],
    /// Columns of a block.
    block: usize,
}

impl Line<'_> {
    /// Runs `each` on the bytes of each block.
    #[inline(always)]
    fn blocks(&self, out: &mut [f32], mut each: impl FnMut(&[u8], f32, &mut [f32])) {
        let (mut done, end) = (0, self.bytes.len());
        while done < end {
            let index = (self.first + done) / self.block;
            let next = end.min((index + 1) * self.block - self.first);
            each(
                &self.bytes[done..next],
                self.scales[index],
                &mut out[done..next],
            );
            done = next;
        }
    }
}

/// What a byte means: 1 bit of sign, 4 of exponent with bias 7, 3 of mantissa.
fn value(byte: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(byte >> 3 & 15), u32::from(byte & 7));
    let magnitude = match exponent {
        0 => mantissa as f32 / 512.0,
        _ => f32::from_bits((exponent + 120) << 23 | mantissa << 20),
    };
    if byte & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Line, value};

    /// Bytes that are widened together.
    const TOGETHER: usize = 16;

    /// Whether this CPU has the instructions.
    pub fn available() -> bool {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("f16c")
    }

    /// # Safety
    ///
    /// [`available`].
    #[target_feature(enable = "avx2,f16c")]
    pub unsafe fn widen(line: &Line<'_>, out: &mut [f32]) {
        line.blocks(out, |bytes, scale, out| {
            let (groups, rest) = bytes.as_chunks::<TOGETHER>();
            let (wide, last) = out.as_chunks_mut::<TOGETHER>();
            for (bytes, out) in groups.iter().zip(wide) {
                // SAFETY: the caller's promise.
                unsafe { sixteen(bytes, scale, out) };
            }
            for (out, byte) in last.iter_mut().zip(rest) {
                *out = value(*byte) * scale;
            }
        });
    }

    /// An f16 has the same mantissa and one more bit of exponent, whose bias is 8 more: shifted
    /// there, a byte is 2^-8 of its value, also where that is subnormal.
    ///
    /// # Safety
    ///
    /// [`available`].
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn sixteen(bytes: &[u8; TOGETHER], scale: f32, out: &mut [f32; TOGETHER]) {
        // A power of two: the product has the bits of value * scale.
        let scale = _mm256_set1_ps(scale * 256.0);
        // SAFETY: 16 bytes and 16 values.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            // The sign fills the upper half; one of it is the f16's, one is in the way.
            let shifted = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(bytes));
            let halves = _mm256_and_si256(shifted, _mm256_set1_epi16(0xbf80_u16 as i16));
            let first = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
            let second = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves));
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(first, scale));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_mul_ps(second, scale));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition, not by bits.
    fn defined(byte: u8) -> f64 {
        let (sign, exponent) = (
            if byte >= 0x80 { -1.0 } else { 1.0 },
            i32::from(byte >> 3) & 15,
        );
        let mantissa = f64::from(byte & 7) / 8.0;
        match exponent {
            0 => sign * mantissa * 2f64.powi(-6),
            _ => sign * (1.0 + mantissa) * 2f64.powi(exponent - 7),
        }
    }

    #[test]
    fn every_byte_has_its_value() {
        let bytes: Vec<u8> = (0..=255).filter(|byte| byte & NAN != NAN).collect();
        // Also scales with all bits of an f32, the largest and the least ones.
        for scale in [1.0, 0.3, -1.7e-3, 7.5e35, 1e-38, 1e-44, 0.0] {
            let matrix = Fp8Matrix::new((1, 254), bytes.clone(), (1, 254), vec![scale]);
            let mut wide = vec![f32::NAN; 254];
            matrix.widen(0, 0..254, &mut wide);
            for (byte, wide) in bytes.iter().zip(wide) {
                let want = defined(*byte) as f32 * scale;
                assert_eq!(
                    wide.to_bits(),
                    want.to_bits(),
                    "{byte:#x} * {scale}: {wide}"
                );
                assert_eq!(f64::from(value(*byte)), defined(*byte));
            }
        }
    }

    #[test]
    fn numbers_and_scales_are_told() {
        assert!(are_numbers(&[0x7e, 0xfe, 0, 0x80]));
        assert!(!are_numbers(&[0, 0x7f]) && !are_numbers(&[0xff, 0]));
        assert!(is_scale(7.5e35) && is_scale(0.0));
        for scale in [1e36, f32::INFINITY, f32::NAN] {
            assert!(!is_scale(scale), "{scale}");
        }
    }
}
