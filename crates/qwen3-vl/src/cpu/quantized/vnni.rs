//! Integer dot products with AVX-512 VNNI: 64 products of bytes per instruction.
//!
//! A decode step reads every weight once; these kernels keep up with memory.

use std::arch::x86_64::*;
use std::ptr;

use candle_core::quantized::k_quants::{BlockQ4K, BlockQ8_0};
use half::f16;

use crate::cpu::int8::input::Row;

/// `BlockQ8_0`, whose fields are private: ggml's layout.
#[repr(C)]
struct Q8_0 {
    scale: f16,
    values: [i8; 32],
}

/// ggml's layout of `BlockQ4K`. Weight = scale * s * value - least * l, with the s and l of its 32
/// weights.
#[repr(C)]
struct Q4K {
    scale: f16,
    least: f16,
    /// The eight s and l, 6 bits each.
    six_bit: [u8; 12],
    /// Values 64 i + j in the low half of byte 32 i + j, 64 i + 32 + j in the high one.
    values: [u8; 128],
}

const _: () = assert!(size_of::<Q8_0>() == size_of::<BlockQ8_0>());
const _: () = assert!(size_of::<Q4K>() == size_of::<BlockQ4K>());

/// Distance of prefetching, in bytes.
const AHEAD: usize = 8192;

/// Whether this CPU has the instructions.
pub fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512vnni")
        && std::arch::is_x86_feature_detected!("f16c")
        && std::arch::is_x86_feature_detected!("fma")
}

/// # Safety
///
/// [`available`]; every w and every x have the same number of values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c,fma")]
pub unsafe fn dots_q8_0<const M: usize, const N: usize>(
    w: [&[BlockQ8_0]; N],
    x: [Row<'_>; M],
) -> [[f32; M]; N] {
    let width = w[0].len();
    let mut rows = [ptr::null(); N];
    for n in 0..N {
        rows[n] = w[n].as_ptr().cast::<Q8_0>();
    }
    // Two sums, so that an addition does not wait for the previous one.
    let mut sums = [[[_mm512_setzero_ps(); 2]; M]; N];
    let fours = width / 4 * 4;
    // SAFETY: the layouts are the same; every x has the values of each block.
    unsafe {
        for i in (0..fours).step_by(4) {
            for n in 0..N {
                ahead(rows[n].wrapping_add(i));
                for part in 0..2 {
                    two_q8_0(rows[n], x, i + 2 * part, part, &mut sums[n]);
                }
            }
        }
        if width >= fours + 2 {
            for n in 0..N {
                two_q8_0(rows[n], x, fours, 0, &mut sums[n]);
            }
        }
    }
    // Loops, because closures would not be inlined into code with these target features.
    let mut out = [[0.0; M]; N];
    for n in 0..N {
        for m in 0..M {
            let [a, b] = sums[n][m];
            out[n][m] = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
        }
    }
    if let Some(i) = (width % 2 == 1).then(|| width - 1) {
        for n in 0..N {
            // SAFETY: as above.
            let last = unsafe { &*rows[n].add(i) };
            for m in 0..M {
                let values = &x[m].values[32 * i..];
                let pairs = last.values.iter().zip(values);
                let sum: i32 = pairs.map(|(w, x)| i32::from(*w) * i32::from(*x)).sum();
                out[n][m] += sum as f32 * last.scale.to_f32() * x[m].scales[i];
            }
        }
    }
    out
}

/// Prefetches the weights of the next rows, which follow these: the CPU by itself does not prefetch
/// far enough to keep memory busy.
#[inline(always)]
fn ahead<T>(at: *const T) {
    let far = at.cast::<i8>().wrapping_add(AHEAD);
    for line in [0, 64, 128] {
        // SAFETY: a hint that is valid for any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(far.wrapping_add(line)) };
    }
}

/// Adds the products of blocks i and i + 1 to the sums `part`.
///
/// # Safety
///
/// As for [`dots_q8_0`]; the blocks exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c,fma")]
unsafe fn two_q8_0<const M: usize>(
    blocks: *const Q8_0,
    x: [Row<'_>; M],
    i: usize,
    part: usize,
    sums: &mut [[__m512; 2]; M],
) {
    let zero = _mm512_setzero_si512();
    let second = _mm512_inserti64x4::<1>(zero, _mm256_set1_epi32(1));
    // SAFETY: the caller guarantees it.
    unsafe {
        let (a, b) = (&*blocks.add(i), &*blocks.add(i + 1));
        let weights = _mm512_inserti64x4::<1>(
            _mm512_castsi256_si512(_mm256_loadu_si256(a.values.as_ptr().cast())),
            _mm256_loadu_si256(b.values.as_ptr().cast()),
        );
        // The instruction needs one unsigned factor: the weights are raised by 128, which the start
        // values of x compensate.
        let weights = _mm512_xor_si512(weights, _mm512_set1_epi8(-128));
        let scales = u32::from(a.scale.to_bits()) | u32::from(b.scale.to_bits()) << 16;
        let scales = _mm256_permutexvar_epi16(
            _mm256_inserti128_si256::<1>(_mm256_setzero_si256(), _mm_set1_epi16(1)),
            _mm256_set1_epi32(scales as i32),
        );
        let scales = _mm512_cvtph_ps(scales);
        for m in 0..M {
            let values = _mm512_loadu_si512(x[m].values.as_ptr().add(32 * i).cast());
            let start = _mm512_loadu_si512(x[m].starts.as_ptr().add(8 * i).cast());
            let products = _mm512_dpbusd_epi32(start, weights, values);
            let of_x = x[m].scales.as_ptr().add(i).cast::<f64>().read_unaligned();
            let of_x = _mm512_castpd_ps(_mm512_set1_pd(of_x));
            let scale = _mm512_mul_ps(scales, _mm512_permutexvar_ps(second, of_x));
            let sum = &mut sums[m][part];
            *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scale, *sum);
        }
    }
}

/// # Safety
///
/// [`available`]; every w and every x have the same number of values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c,fma")]
pub unsafe fn dots_q4k<const M: usize, const N: usize>(
    w: [&[BlockQ4K]; N],
    x: [Row<'_>; M],
) -> [[f32; M]; N] {
    let mut rows = [ptr::null(); N];
    for n in 0..N {
        rows[n] = w[n].as_ptr().cast::<Q4K>();
    }
    let mut sums = [[_mm512_setzero_ps(); M]; N];
    let mut leasts = [[_mm256_setzero_ps(); M]; N];
    for i in 0..w[0].len() {
        for n in 0..N {
            ahead(rows[n].wrapping_add(i));
            // SAFETY: the layouts are the same; every x has 8 scales and 256 values for each block.
            unsafe { one_q4k(&*rows[n].add(i), x, i, &mut sums[n], &mut leasts[n]) };
        }
    }
    let mut out = [[0.0; M]; N];
    for n in 0..N {
        for m in 0..M {
            out[n][m] = _mm512_reduce_add_ps(sums[n][m]) - total(leasts[n][m]);
        }
    }
    out
}

/// Adds the products of block i to the sums.
///
/// # Safety
///
/// As for [`dots_q4k`]; every x has this block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c,fma")]
unsafe fn one_q4k<const M: usize>(
    block: &Q4K,
    x: [Row<'_>; M],
    i: usize,
    sums: &mut [__m512; M],
    leasts: &mut [__m256; M],
) {
    let nibble = _mm512_set1_epi8(0x0F);
    // The low halves of the bytes are the first 32 values, the high halves the next 32.
    let halves = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(4));
    let seconds = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi32(1));
    let (scales, least) = six_bit(block);
    let mut by_input = [_mm512_setzero_ps(); M];
    // SAFETY: the caller guarantees it.
    unsafe {
        for m in 0..M {
            let of_x = _mm256_loadu_ps(x[m].scales.as_ptr().add(8 * i));
            by_input[m] = _mm512_castps256_ps512(_mm256_mul_ps(scales, of_x));
            let sum = _mm256_loadu_ps(x[m].sums.as_ptr().add(8 * i));
            leasts[m] = _mm256_fmadd_ps(least, sum, leasts[m]);
        }
        for part in 0..4 {
            let bytes = _mm256_loadu_si256(block.values.as_ptr().add(32 * part).cast());
            let bytes = _mm512_broadcast_i64x4(bytes);
            let weights = _mm512_and_si512(_mm512_srlv_epi16(bytes, halves), nibble);
            let index = _mm512_add_epi32(seconds, _mm512_set1_epi32(2 * part as i32));
            for m in 0..M {
                let at = x[m].values.as_ptr().add(256 * i + 64 * part);
                let values = _mm512_loadu_si512(at.cast());
                let products = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, values);
                let scale = _mm512_permutexvar_ps(index, by_input[m]);
                sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scale, sums[m]);
            }
        }
    }
}

/// The eight scales and minimums of a block.
#[target_feature(enable = "avx2,fma,f16c")]
fn six_bit(block: &Q4K) -> (__m256, __m256) {
    const SIX: u32 = 0x3f3f_3f3f;
    let word = |i: usize| {
        let bytes = &block.six_bit;
        u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]])
    };
    let (first, second, third) = (word(0), word(4), word(8));
    // The first four have their six bits in one byte. The others have four bits in half a byte of
    // the third word and two in the top bits of the first four's bytes.
    let low = 0x0f0f_0f0f;
    let scales = [first & SIX, third & low | (first >> 6 & 0x0303_0303) << 4];
    let leasts = [
        second & SIX,
        third >> 4 & low | (second >> 6 & 0x0303_0303) << 4,
    ];
    let widened = |[a, b]: [u32; 2]| {
        let bytes = _mm_cvtsi64_si128((u64::from(a) | u64::from(b) << 32) as i64);
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
    };
    let times = |values, scale| _mm256_mul_ps(values, _mm256_set1_ps(scale));
    (
        times(widened(scales), widen(block.scale)),
        times(widened(leasts), widen(block.least)),
    )
}

#[target_feature(enable = "f16c")]
fn widen(value: f16) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(value.to_bits()))))
}

#[target_feature(enable = "avx")]
fn total(vector: __m256) -> f32 {
    let four = _mm_add_ps(
        _mm256_castps256_ps128(vector),
        _mm256_extractf128_ps::<1>(vector),
    );
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}
