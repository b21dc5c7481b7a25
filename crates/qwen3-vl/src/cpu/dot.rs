//! Dot products of f32 inputs with f32, bf16 or f16 weights: what a decode step consists of.
//!
//! Written with vector instructions by hand: left to the compiler, the widening of 16-bit weights
//! comes out four lanes at a time and a decode step is bound by it instead of by memory.

use half::{bf16, f16};

use super::vector::Weight;

/// A weight type with a vector load.
pub trait DotWeight: Weight {
    /// Widens as many weights as `S` has lanes.
    ///
    /// # Safety
    ///
    /// The CPU has `S`'s instructions and that many weights can be read from `at`.
    #[cfg(target_arch = "x86_64")]
    #[doc(hidden)]
    unsafe fn load<S: x86::Simd>(at: *const Self) -> S::Vector;
}

macro_rules! dot_weight {
    ($weight:ty, $load:ident) => {
        impl DotWeight for $weight {
            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            unsafe fn load<S: x86::Simd>(at: *const Self) -> S::Vector {
                // SAFETY: promised by the caller.
                unsafe { S::$load(at) }
            }
        }
    };
}
dot_weight!(f32, load_f32);
dot_weight!(bf16, load_bf16);
dot_weight!(f16, load_f16);

/// One row of weights against `M` inputs of the same length at once, so that a weight is read from
/// memory only once.
///
/// # Panics
///
/// If the lengths differ.
pub fn dots<W: DotWeight, const M: usize>(x: [&[f32]; M], w: &[W]) -> [f32; M] {
    assert!(x.iter().all(|x| x.len() == w.len()), "dots: lengths");
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has the instructions; the lengths have been checked.
            return unsafe { x86::dots_avx512(x, w) };
        }
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
        {
            // SAFETY: as above.
            return unsafe { x86::dots_avx2(x, w) };
        }
    }
    x.map(|x| dot_portable(x, w))
}

/// Eight partial sums, which every compiler can keep in vectors.
fn dot_portable<W: Weight>(x: &[f32], w: &[W]) -> f32 {
    let mut lanes = [0f32; 8];
    let (xs, ws) = (x.chunks_exact(8), w.chunks_exact(8));
    let tail = xs.remainder().iter().zip(ws.remainder());
    let rest: f32 = tail.map(|(x, w)| x * w.widen()).sum();
    for (x, w) in xs.zip(ws) {
        for i in 0..8 {
            lanes[i] += x[i] * w[i].widen();
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[cfg(target_arch = "x86_64")]
#[doc(hidden)]
pub mod x86 {
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::DotWeight;

    /// An instruction set. Every method needs a CPU that has it, and pointers from which `LANES`
    /// values can be read.
    #[allow(clippy::missing_safety_doc, missing_docs)]
    pub trait Simd {
        type Vector: Copy;
        const LANES: usize;
        unsafe fn zero() -> Self::Vector;
        unsafe fn load_f32(at: *const f32) -> Self::Vector;
        unsafe fn load_bf16(at: *const bf16) -> Self::Vector;
        unsafe fn load_f16(at: *const f16) -> Self::Vector;
        unsafe fn multiply_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
        unsafe fn sum(vector: Self::Vector) -> f32;
    }

    pub struct Avx512;

    // SAFETY of all blocks: the trait's conditions.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Simd for Avx512 {
        type Vector = __m512;
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn zero() -> __m512 {
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load_f32(at: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(at) }
        }
        #[inline(always)]
        unsafe fn load_bf16(at: *const bf16) -> __m512 {
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn load_f16(at: *const f16) -> __m512 {
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
        }
        #[inline(always)]
        unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sum(vector: __m512) -> f32 {
            unsafe { _mm512_reduce_add_ps(vector) }
        }
    }

    pub struct Avx2;

    // SAFETY of all blocks: the trait's conditions.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Simd for Avx2 {
        type Vector = __m256;
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn zero() -> __m256 {
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load_f32(at: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(at) }
        }
        #[inline(always)]
        unsafe fn load_bf16(at: *const bf16) -> __m256 {
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn load_f16(at: *const f16) -> __m256 {
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
        }
        #[inline(always)]
        unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn sum(vector: __m256) -> f32 {
            let mut lanes = [0f32; 8];
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), vector) };
            lanes.iter().sum()
        }
    }

    /// # Safety
    ///
    /// The CPU has AVX-512F; all slices are of one length.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn dots_avx512<W: DotWeight, const M: usize>(x: [&[f32]; M], w: &[W]) -> [f32; M] {
        // SAFETY: promised by the caller.
        unsafe { dots::<Avx512, W, M>(x, w) }
    }

    /// # Safety
    ///
    /// The CPU has AVX2, FMA and F16C; all slices are of one length.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn dots_avx2<W: DotWeight, const M: usize>(x: [&[f32]; M], w: &[W]) -> [f32; M] {
        // SAFETY: promised by the caller.
        unsafe { dots::<Avx2, W, M>(x, w) }
    }

    /// Independent sums for each input, so that the latency of an addition is hidden.
    const SUMS: usize = 4;

    /// # Safety
    ///
    /// The CPU has `S`'s instructions; all slices are of one length.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // two arrays at one index
    unsafe fn dots<S: Simd, W: DotWeight, const M: usize>(x: [&[f32]; M], w: &[W]) -> [f32; M] {
        // SAFETY: `at + LANES <= len` for every load.
        unsafe {
            let mut sums = [[S::zero(); SUMS]; M];
            let step = S::LANES * SUMS;
            let whole = w.len() / step * step;
            for base in (0..whole).step_by(step) {
                for part in 0..SUMS {
                    let at = base + part * S::LANES;
                    let weights = W::load::<S>(w.as_ptr().add(at));
                    for m in 0..M {
                        let values = S::load_f32(x[m].as_ptr().add(at));
                        sums[m][part] = S::multiply_add(values, weights, sums[m][part]);
                    }
                }
            }
            let mut out = [0f32; M];
            for m in 0..M {
                let rest = x[m][whole..].iter().zip(&w[whole..]);
                out[m] = rest.map(|(x, w)| x * w.widen()).sum::<f32>()
                    + sums[m].into_iter().map(|sum| S::sum(sum)).sum::<f32>();
            }
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agree_with_f64() {
        for len in [1, 31, 64, 65, 100, 1000] {
            let x: Vec<f32> = (0..len)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0)
                .collect();
            let w: Vec<bf16> = (0..len)
                .map(|i| bf16::from_f32(((i * 53 % 89) as f32 - 44.0) / 9.0))
                .collect();
            let want: f64 = x
                .iter()
                .zip(&w)
                .map(|(x, w)| f64::from(*x) * f64::from(w.widen()))
                .sum();
            let close = |got: f32| assert!((f64::from(got) - want).abs() < 1e-3, "{got} {want}");
            let w16: Vec<f16> = w.iter().map(|w| f16::from_f32(w.widen())).collect();
            let w32: Vec<f32> = w.iter().map(|w| w.widen()).collect();
            dots([&x], &w).into_iter().for_each(close);
            dots([&x; 4], &w).into_iter().for_each(close);
            dots([&x], &w16).into_iter().for_each(close);
            dots([&x], &w32).into_iter().for_each(close);
            close(dot_portable(&x, &w));
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the CPU has the instructions (FMA and F16C came with AVX2).
                let got = unsafe { x86::dots_avx2([x.as_slice(); 2], &w16) };
                got.into_iter().for_each(close);
            }
        }
    }
}
