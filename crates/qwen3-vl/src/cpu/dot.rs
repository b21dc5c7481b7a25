//! Dot products of f32 inputs with f32, bf16 or f16 weights, which dominate a decode step.
//!
//! Vector instructions are written by hand: the compiler widens 16-bit weights only four lanes at a
//! time, which would bound a decode step instead of memory.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};

use super::vector::Weight;

/// A weight type with a vector load.
pub trait DotWeight: Weight {
    /// Widens as many weights as `S` has lanes.
    ///
    /// # Safety
    ///
    /// The CPU has `S`'s instructions, and `S::LANES` weights can be read from `at`.
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
                // SAFETY: the caller guarantees it.
                unsafe { S::$load(at) }
            }
        }
    };
}
dot_weight!(f32, load_f32);
dot_weight!(bf16, load_bf16);
dot_weight!(f16, load_f16);

/// The vector instructions that the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// AVX-512: 32 registers of 16 values.
    Avx512,
    /// AVX2 with FMA and F16C: 16 registers of 8 values.
    Avx2,
    /// No known vector instructions.
    Portable,
}

impl Level {
    /// The best level of this CPU.
    pub fn of_this_cpu() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("fma")
                && std::arch::is_x86_feature_detected!("f16c")
            {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    fn lanes(self) -> usize {
        match self {
            Self::Avx512 => 16,
            Self::Avx2 | Self::Portable => 8,
        }
    }
}

/// Input rows, interleaved by vector: the first vectors of all rows, then the second ones. Rows of
/// a matrix usually have a stride of a power of two, and a first-level cache cannot hold more than
/// a few of those.
pub struct Inputs<'a> {
    level: Level,
    values: Cow<'a, [f32]>,
    rows: usize,
    len: usize,
}

impl<'a> Inputs<'a> {
    /// One row, which needs no copy.
    pub fn one(x: &'a [f32]) -> Self {
        Self {
            level: Level::of_this_cpu(),
            values: Cow::Borrowed(x),
            rows: 1,
            len: x.len(),
        }
    }

    /// The rows of `x` `[rows, len]`.
    ///
    /// # Panics
    ///
    /// If `x` does not have that size.
    pub fn new(x: &'a [f32], rows: usize, len: usize) -> Self {
        assert!(x.len() == rows * len, "inputs: size");
        match rows {
            1 => Self::one(x),
            _ => Self::laid_out(Level::of_this_cpu(), x, rows, len),
        }
    }

    fn laid_out(level: Level, x: &[f32], rows: usize, len: usize) -> Self {
        let lanes = level.lanes();
        let mut values = vec![0.0; rows * len.next_multiple_of(lanes)];
        for (row, x) in x.chunks_exact(len.max(1)).enumerate() {
            for (step, part) in x.chunks(lanes).enumerate() {
                values[(step * rows + row) * lanes..][..part.len()].copy_from_slice(part);
            }
        }
        Self {
            level,
            values: Cow::Owned(values),
            rows,
            len,
        }
    }

    /// Some columns of all rows.
    ///
    /// # Panics
    ///
    /// If there are no such columns, or they do not begin with a vector.
    pub fn part(&self, columns: Range<usize>) -> Inputs<'_> {
        let lanes = self.level.lanes();
        assert!(
            columns.end <= self.len && columns.start.is_multiple_of(lanes),
            "inputs: part"
        );
        // One row has no padding at its end.
        let end = columns.end.next_multiple_of(lanes) * self.rows;
        let values = columns.start * self.rows..end.min(self.values.len());
        Inputs {
            level: self.level,
            values: Cow::Borrowed(&self.values[values]),
            rows: self.rows,
            len: columns.len(),
        }
    }

    /// Vector instructions that the layout is for.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Dot products of `N` rows of weights with the `M` rows from `first` on: a weight is read and
    /// widened once for `M` inputs, and an input is read once for `N` weights. The result of a pair
    /// does not depend on the rest of the call, so that a window's answer is the same alone and in
    /// a batch.
    ///
    /// # Panics
    ///
    /// If there are no such rows or the lengths differ.
    pub fn dots<W: DotWeight, const M: usize, const N: usize>(
        &self,
        first: usize,
        w: [&[W]; N],
    ) -> [[f32; M]; N] {
        assert!(first + M <= self.rows, "dots: rows");
        assert!(w.iter().all(|w| w.len() == self.len), "dots: lengths");
        let x = &self.values[first * self.level.lanes()..];
        match self.level {
            // SAFETY: the CPU has the instructions; every vector of the M rows is in bounds.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { x86::dots_avx512(x, self.rows, w) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { x86::dots_avx2(x, self.rows, w) },
            _ => dots_portable(x, self.rows, w),
        }
    }
}

/// Eight partial sums per pair, which compilers can keep in vectors.
fn dots_portable<W: Weight, const M: usize, const N: usize>(
    x: &[f32],
    rows: usize,
    w: [&[W]; N],
) -> [[f32; M]; N] {
    w.map(|w| {
        std::array::from_fn(|m| {
            let mut lanes = [0f32; 8];
            for (step, w) in w.chunks(8).enumerate() {
                let x = &x[(step * rows + m) * 8..];
                for ((lane, x), w) in lanes.iter_mut().zip(x).zip(w) {
                    *lane += x * w.widen();
                }
            }
            lanes.iter().sum()
        })
    })
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
    /// The CPU has AVX-512F; all of `w` have one length; `x` has `M` of `rows` rows of that length
    /// in the layout of [`super::Inputs`].
    #[target_feature(enable = "avx512f")]
    pub unsafe fn dots_avx512<W: DotWeight, const M: usize, const N: usize>(
        x: &[f32],
        rows: usize,
        w: [&[W]; N],
    ) -> [[f32; M]; N] {
        // SAFETY: the caller guarantees it.
        unsafe { dots::<Avx512, W, M, N>(x, rows, w) }
    }

    /// # Safety
    ///
    /// The CPU has AVX2, FMA and F16C; the rest is as for [`dots_avx512`].
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn dots_avx2<W: DotWeight, const M: usize, const N: usize>(
        x: &[f32],
        rows: usize,
        w: [&[W]; N],
    ) -> [[f32; M]; N] {
        // SAFETY: the caller guarantees it.
        unsafe { dots::<Avx2, W, M, N>(x, rows, w) }
    }

    /// One sum per pair: eight or more pairs hide the latency of an addition.
    ///
    /// # Safety
    ///
    /// The CPU has `S`'s instructions; the rest is as for [`dots_avx512`].
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // several arrays at one index
    unsafe fn dots<S: Simd, W: DotWeight, const M: usize, const N: usize>(
        x: &[f32],
        rows: usize,
        w: [&[W]; N],
    ) -> [[f32; M]; N] {
        let len = w.first().map_or(0, |w| w.len());
        let steps = len / S::LANES;
        // SAFETY: `at + LANES <= len` for every load of w; x has those vectors for all of its rows.
        unsafe {
            let mut sums = [[S::zero(); M]; N];
            for step in 0..steps {
                let mut weights = [S::zero(); N];
                for n in 0..N {
                    let at = w[n].as_ptr().add(step * S::LANES);
                    weights[n] = W::load::<S>(at);
                    // Prefetches what the next call usually reads: between so many instructions the
                    // CPU does not prefetch far enough. A wrong guess costs little.
                    if M >= 4 {
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(N * len).cast());
                    }
                }
                for m in 0..M {
                    let value = S::load_f32(x.as_ptr().add((step * rows + m) * S::LANES));
                    for n in 0..N {
                        sums[n][m] = S::multiply_add(value, weights[n], sums[n][m]);
                    }
                }
            }
            let mut out = [[0f32; M]; N];
            for n in 0..N {
                let rest = &w[n][steps * S::LANES..];
                for m in 0..M {
                    out[n][m] = S::sum(sums[n][m]);
                    if !rest.is_empty() {
                        let x = &x[(steps * rows + m) * S::LANES..];
                        out[n][m] += rest.iter().zip(x).map(|(w, x)| x * w.widen()).sum::<f32>();
                    }
                }
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
            // The second of three rows, and all of four: every row has other values.
            let rows: Vec<f32> = (0..4)
                .flat_map(|m| x.iter().map(move |x| x * m as f32))
                .collect();
            let inputs = Inputs::new(&rows[..3 * len], 3, len);
            close(inputs.dots::<_, 1, 1>(1, [&w])[0][0]);
            close(Inputs::one(&x).dots::<_, 1, 8>(0, [&w32; 8])[7][0]);
            let inputs = Inputs::new(&rows, 4, len);
            let check = |got: [f32; 4]| {
                for (m, got) in got.into_iter().enumerate() {
                    let error = f64::from(got) - want * m as f64;
                    assert!(error.abs() < 4e-3, "{m}: {got} {want}");
                }
            };
            inputs
                .dots::<_, 4, 4>(0, [&w; 4])
                .into_iter()
                .for_each(check);
            inputs
                .dots::<_, 4, 2>(0, [&w16; 2])
                .into_iter()
                .for_each(check);
            // The other layouts.
            for level in [Level::Avx2, Level::Portable] {
                if level == Level::Avx2 && Level::of_this_cpu() == Level::Portable {
                    continue;
                }
                let inputs = Inputs::laid_out(level, &rows, 4, len);
                inputs
                    .dots::<_, 4, 2>(0, [&w16; 2])
                    .into_iter()
                    .for_each(check);
            }
        }
    }
}
