//! AVX-512 VNNI: 64 products of bytes an instruction, added to 32 bits.

use std::arch::x86_64::*;

use super::input::Row;
use super::kernel::{Quants, Stretch, stretch};
use super::lanes::Lanes;

pub struct Vnni;

/// Whether this CPU has the instructions.
pub fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vnni")
}

/// [`stretch`] with these instructions.
///
/// # Safety
///
/// [`available`]; the rest is as for [`stretch`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn run<Q: Quants, const M: usize>(w: &Stretch<'_>, x: [Row<'_>; M], sums: *mut f32) {
    // SAFETY: the caller guarantees it.
    unsafe { stretch::<Vnni, Q, M>(w, x, sums) }
}

// SAFETY of all blocks: the trait's conditions.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Vnni {
    type Bytes = __m512i;
    type Sums = __m512i;
    type WideSums = __m512i;
    type Ints = __m512i;
    type Floats = __m512;
    const EIGHT_ROWS: bool = true;

    #[inline(always)]
    unsafe fn nibbles(at: *const u8) -> __m512i {
        unsafe {
            let low = _mm256_loadu_si256(at.cast());
            let high = _mm256_srli_epi16::<4>(low);
            let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
            _mm512_and_si512(both, _mm512_set1_epi8(15))
        }
    }
    #[inline(always)]
    unsafe fn bytes(at: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(at.cast()) }
    }
    #[inline(always)]
    unsafe fn with_high(low: __m512i, planes: __m512i, mask: u8) -> __m512i {
        unsafe {
            let high = _mm512_and_si512(planes, _mm512_set1_epi8(mask as i8));
            _mm512_or_si512(low, _mm512_slli_epi16::<4>(high))
        }
    }
    #[inline(always)]
    unsafe fn next<const BITS: i32>(planes: __m512i) -> __m512i {
        // A count in a register: the immediate is of another type than AVX2's.
        unsafe { _mm512_srl_epi16(planes, _mm_cvtsi32_si128(BITS)) }
    }

    #[inline(always)]
    unsafe fn none() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn add(sums: __m512i, w: __m512i, x: i32) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, w, _mm512_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn total(sums: __m512i) -> __m512i {
        sums
    }
    #[inline(always)]
    unsafe fn none_wide() -> __m512i {
        unsafe { Self::none() }
    }
    #[inline(always)]
    unsafe fn add_wide(sums: __m512i, w: __m512i, x: i32) -> __m512i {
        unsafe { Self::add(sums, w, x) }
    }
    #[inline(always)]
    unsafe fn total_wide(sums: __m512i) -> __m512i {
        sums
    }
    #[inline(always)]
    unsafe fn plus(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(at) }
    }
    #[inline(always)]
    unsafe fn store(at: *mut f32, values: __m512) {
        unsafe { _mm512_storeu_ps(at, values) }
    }
    #[inline(always)]
    unsafe fn float(values: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(values) }
    }
    #[inline(always)]
    unsafe fn times(a: __m512, b: f32) -> __m512 {
        unsafe { _mm512_mul_ps(a, _mm512_set1_ps(b)) }
    }
    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn less_product(a: __m512, b: f32, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, _mm512_set1_ps(b), c) }
    }
}
