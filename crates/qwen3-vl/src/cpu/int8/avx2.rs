//! AVX2: products of bytes are added in pairs to 16 bits, several times before the sums are
//! widened; 8-bit weights as two halves of 4 bits.

use std::arch::x86_64::*;

use super::input::Row;
use super::kernel::{Quants, Stretch, stretch};
use super::lanes::Lanes;

pub struct Avx2;

/// Whether this CPU has the instructions.
pub fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// [`stretch`] with these instructions.
///
/// # Safety
///
/// [`available`]; the rest is as for [`stretch`].
#[target_feature(enable = "avx2,fma")]
pub unsafe fn run<Q: Quants, const M: usize>(w: &Stretch<'_>, x: [Row<'_>; M], sums: *mut f32) {
    // SAFETY: the caller guarantees it.
    unsafe { stretch::<Avx2, Q, M>(w, x, sums) }
}

// SAFETY of all blocks: the trait's conditions.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Avx2 {
    type Bytes = [__m256i; 2];
    type Sums = [__m256i; 2];
    type WideSums = [[__m256i; 2]; 2];
    type Ints = [__m256i; 2];
    type Floats = [__m256; 2];
    const EIGHT_ROWS: bool = false;

    #[inline(always)]
    unsafe fn nibbles(at: *const u8) -> Self::Bytes {
        unsafe { halves(_mm256_loadu_si256(at.cast())) }
    }
    #[inline(always)]
    unsafe fn bytes(at: *const u8) -> Self::Bytes {
        unsafe {
            [
                _mm256_loadu_si256(at.cast()),
                _mm256_loadu_si256(at.add(32).cast()),
            ]
        }
    }
    #[inline(always)]
    unsafe fn with_high(low: Self::Bytes, planes: Self::Bytes, mask: u8) -> Self::Bytes {
        unsafe {
            let mask = _mm256_set1_epi8(mask as i8);
            let high = [
                _mm256_and_si256(planes[0], mask),
                _mm256_and_si256(planes[1], mask),
            ];
            [
                _mm256_or_si256(low[0], _mm256_slli_epi16::<4>(high[0])),
                _mm256_or_si256(low[1], _mm256_slli_epi16::<4>(high[1])),
            ]
        }
    }
    #[inline(always)]
    unsafe fn next<const BITS: i32>(planes: Self::Bytes) -> Self::Bytes {
        unsafe {
            [
                _mm256_srli_epi16::<BITS>(planes[0]),
                _mm256_srli_epi16::<BITS>(planes[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn none() -> Self::Sums {
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    unsafe fn add(sums: Self::Sums, w: Self::Bytes, x: i32) -> Self::Sums {
        unsafe {
            let x = _mm256_set1_epi32(x);
            [
                _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(w[0], x)),
                _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(w[1], x)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn total(sums: Self::Sums) -> Self::Ints {
        unsafe {
            let one = _mm256_set1_epi16(1);
            [
                _mm256_madd_epi16(sums[0], one),
                _mm256_madd_epi16(sums[1], one),
            ]
        }
    }
    #[inline(always)]
    unsafe fn none_wide() -> Self::WideSums {
        unsafe { [Self::none(); 2] }
    }
    #[inline(always)]
    unsafe fn add_wide(sums: Self::WideSums, w: Self::Bytes, x: i32) -> Self::WideSums {
        unsafe {
            let (first, second) = (halves(w[0]), halves(w[1]));
            [
                Self::add(sums[0], [first[0], second[0]], x),
                Self::add(sums[1], [first[1], second[1]], x),
            ]
        }
    }
    #[inline(always)]
    unsafe fn total_wide(sums: Self::WideSums) -> Self::Ints {
        unsafe {
            let (low, high) = (Self::total(sums[0]), Self::total(sums[1]));
            let high = [
                _mm256_slli_epi32::<4>(high[0]),
                _mm256_slli_epi32::<4>(high[1]),
            ];
            Self::plus(low, high)
        }
    }
    #[inline(always)]
    unsafe fn plus(a: Self::Ints, b: Self::Ints) -> Self::Ints {
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self::Floats {
        unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(at: *mut f32, values: Self::Floats) {
        unsafe {
            _mm256_storeu_ps(at, values[0]);
            _mm256_storeu_ps(at.add(8), values[1]);
        }
    }
    #[inline(always)]
    unsafe fn float(values: Self::Ints) -> Self::Floats {
        unsafe { [_mm256_cvtepi32_ps(values[0]), _mm256_cvtepi32_ps(values[1])] }
    }
    #[inline(always)]
    unsafe fn times(a: Self::Floats, b: f32) -> Self::Floats {
        unsafe {
            let b = _mm256_set1_ps(b);
            [_mm256_mul_ps(a[0], b), _mm256_mul_ps(a[1], b)]
        }
    }
    #[inline(always)]
    unsafe fn multiply_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }
    #[inline(always)]
    unsafe fn less_product(a: Self::Floats, b: f32, c: Self::Floats) -> Self::Floats {
        unsafe {
            let b = _mm256_set1_ps(b);
            [
                _mm256_fnmadd_ps(a[0], b, c[0]),
                _mm256_fnmadd_ps(a[1], b, c[1]),
            ]
        }
    }
}

/// The low and the high half of each byte.
///
/// # Safety
///
/// [`available`].
#[inline(always)]
unsafe fn halves(bytes: __m256i) -> [__m256i; 2] {
    // SAFETY: the caller guarantees it.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        [
            _mm256_and_si256(bytes, mask),
            _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
        ]
    }
}
