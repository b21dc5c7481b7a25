//! The instruction that multiplies pairs of bf16.

/// 16 lanes of f32 and of pairs of bf16. Every method needs a CPU that has the instructions, and
/// pointers from which 16 lanes can be read or to which they can be written.
#[allow(clippy::missing_safety_doc)]
pub trait Lanes {
    type Sums: Copy;
    type Pairs: Copy;
    unsafe fn load_sums(at: *const f32) -> Self::Sums;
    unsafe fn store_sums(sums: Self::Sums, at: *mut f32);
    unsafe fn load_pairs(at: *const u32) -> Self::Pairs;
    /// The same pair in all lanes.
    unsafe fn splat(pair: u32) -> Self::Pairs;
    /// `sums + a1 * b1 + a0 * b0` in each lane, where a0 is the lower half of a pair: one fused
    /// multiply-add after the other.
    unsafe fn dot_pairs(sums: Self::Sums, a: Self::Pairs, b: Self::Pairs) -> Self::Sums;
}

/// Lanes of a register.
pub const LANES: usize = 16;

/// The instruction's definition (Intel's manual, `VDPBF16PS`): a fused multiply-add for the upper
/// halves, then one for the lower halves; rounded to nearest even, denormals are zero.
pub struct Emulated;

#[allow(clippy::undocumented_unsafe_blocks)]
// SAFETY of all blocks: the trait's conditions.
impl Lanes for Emulated {
    type Sums = [f32; LANES];
    type Pairs = [u32; LANES];

    unsafe fn load_sums(at: *const f32) -> Self::Sums {
        unsafe { at.cast::<Self::Sums>().read_unaligned() }
    }

    unsafe fn store_sums(sums: Self::Sums, at: *mut f32) {
        unsafe { at.cast::<Self::Sums>().write_unaligned(sums) };
    }

    unsafe fn load_pairs(at: *const u32) -> Self::Pairs {
        unsafe { at.cast::<Self::Pairs>().read_unaligned() }
    }

    unsafe fn splat(pair: u32) -> Self::Pairs {
        [pair; LANES]
    }

    unsafe fn dot_pairs(mut sums: Self::Sums, a: Self::Pairs, b: Self::Pairs) -> Self::Sums {
        for (sum, (a, b)) in sums.iter_mut().zip(a.into_iter().zip(b)) {
            *sum = fused(*sum, high(a), high(b));
            *sum = fused(*sum, low(a), low(b));
        }
        sums
    }
}

/// The upper half of a pair.
pub fn high(pair: u32) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}

/// The lower half of a pair.
pub fn low(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

/// `sum + a * b`, rounded once. In f64 the product of two bf16 is exact. Its 16 bits and the sum's
/// 24 either fit into the 53 of an f64, so that only the last step rounds, or the product is too
/// small to change the sum.
fn fused(sum: f32, a: f32, b: f32) -> f32 {
    let exact = f64::from(flushed(a)) * f64::from(flushed(b));
    flushed((f64::from(flushed(sum)) + exact) as f32)
}

/// Zero for a denormal, with its sign.
fn flushed(value: f32) -> f32 {
    // A comparison, which compilers turn into vector code.
    match value.abs() < f32::MIN_POSITIVE {
        true => 0f32.copysign(value),
        false => value,
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::Avx512;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::Lanes;

    /// AVX512-BF16.
    pub struct Avx512;

    #[allow(clippy::undocumented_unsafe_blocks)]
    // SAFETY of all blocks: the trait's conditions; both types have 512 bits without a meaning of
    // their own.
    impl Lanes for Avx512 {
        type Sums = __m512;
        type Pairs = __m512bh;

        #[inline(always)]
        unsafe fn load_sums(at: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(at) }
        }

        #[inline(always)]
        unsafe fn store_sums(sums: __m512, at: *mut f32) {
            unsafe { _mm512_storeu_ps(at, sums) };
        }

        #[inline(always)]
        unsafe fn load_pairs(at: *const u32) -> __m512bh {
            unsafe { transmute(_mm512_loadu_si512(at.cast())) }
        }

        #[inline(always)]
        unsafe fn splat(pair: u32) -> __m512bh {
            unsafe { transmute(_mm512_set1_epi32(pair as i32)) }
        }

        #[inline(always)]
        unsafe fn dot_pairs(sums: __m512, a: __m512bh, b: __m512bh) -> __m512 {
            unsafe { _mm512_dpbf16_ps(sums, a, b) }
        }
    }
}
