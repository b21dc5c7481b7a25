//! Blocks of 256 weights whose scales are numbers of a few bits times one of the block, by ggml's
//! `dequantize_row_*_K` (`ggml-quants.c`).

use multiversion::multiversion;

use super::scale;

/// Blocks and the weights that they become.
#[inline(always)]
fn pairs<'a, const BYTES: usize>(
    blocks: &'a [u8],
    out: &'a mut [f32],
) -> impl Iterator<Item = (&'a [u8; BYTES], &'a mut [f32; 256])> {
    let blocks = blocks.as_chunks().0;
    blocks.iter().zip(out.as_chunks_mut().0)
}

/// `d * s * q - m * t` with s and t of 4 bits for each 16 weights; q of 2 bits.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2", "x86_64+avx2"))]
pub(super) fn q2_k(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<84>(blocks, out) {
        let (d, min) = (scale(block, 80), scale(block, 82));
        for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            // Bits of four weights, 32 apart, lie in one byte; each 128 have bytes of their own.
            let (half, shift, side) = (group / 8, group % 8 / 2 * 2, group % 2);
            let (s, t) = (block[group] & 15, block[group] >> 4);
            let (scale, less) = (d * f32::from(s), min * f32::from(t));
            let bytes = &block[16 + 32 * half + 16 * side..][..16];
            for (out, q) in out.iter_mut().zip(bytes) {
                *out = scale * f32::from(q >> shift & 3) - less;
            }
        }
    }
}

/// `d * (s - 32) * (q - 4)` with s of 6 bits for each 16 weights; the third bits of q lie apart.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2", "x86_64+avx2"))]
pub(super) fn q3_k(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<110>(blocks, out) {
        let (third, packed, d) = (&block[..32], &block[96..108], scale(block, 108));
        for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (half, shift, side) = (group / 8, group % 8 / 2 * 2, group % 2);
            let low = packed[group % 8] >> (group / 8 * 4) & 15;
            let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
            let scale = d * (f32::from(low | high << 4) - 32.0);
            let bytes = &block[32 + 32 * half + 16 * side..][..16];
            let third = &third[16 * side..][..16];
            let bit = 4 * half + shift / 2;
            for ((out, q), third) in out.iter_mut().zip(bytes).zip(third) {
                let q = i32::from(q >> shift & 3) | i32::from(third >> bit & 1) << 2;
                *out = scale * (q - 4) as f32;
            }
        }
    }
}

/// The scale and the least value of each 32 weights, of 6 bits (`get_scale_min_k4`).
#[inline(always)]
pub(in crate::cpu) fn scale_min(packed: &[u8], group: usize) -> (u8, u8) {
    match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => (
            packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
            packed[group + 4] >> 4 | packed[group] >> 6 << 4,
        ),
    }
}

/// [`scale_min`] of two groups that follow each other.
#[inline(always)]
fn two(packed: &[u8], pair: usize) -> [(f32, f32); 2] {
    [2 * pair, 2 * pair + 1].map(|group| {
        let (scale, min) = scale_min(packed, group);
        (f32::from(scale), f32::from(min))
    })
}

/// `d * s * q - m * t` with s and t of 6 bits for each 32 weights; q of 4 bits.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2", "x86_64+avx2"))]
pub(super) fn q4_k(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<144>(blocks, out) {
        let (d, min, packed) = (scale(block, 0), scale(block, 2), &block[4..16]);
        for (pair, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            let [(s1, t1), (s2, t2)] = two(packed, pair);
            let (scale1, less1) = (d * s1, min * t1);
            let (scale2, less2) = (d * s2, min * t2);
            for (i, q) in block[16 + 32 * pair..][..32].iter().enumerate() {
                out[i] = scale1 * f32::from(q & 15) - less1;
                out[i + 32] = scale2 * f32::from(q >> 4) - less2;
            }
        }
    }
}

/// The same with fifth bits apart.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2", "x86_64+avx2"))]
pub(super) fn q5_k(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<176>(blocks, out) {
        let (d, min, packed) = (scale(block, 0), scale(block, 2), &block[4..16]);
        let fifth = &block[16..48];
        for (pair, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            let [(s1, t1), (s2, t2)] = two(packed, pair);
            let (scale1, less1) = (d * s1, min * t1);
            let (scale2, less2) = (d * s2, min * t2);
            let bytes = block[48 + 32 * pair..][..32].iter().zip(fifth);
            for (i, (q, fifth)) in bytes.enumerate() {
                let fifth = fifth >> (2 * pair);
                out[i] = scale1 * f32::from(q & 15 | (fifth & 1) << 4) - less1;
                out[i + 32] = scale2 * f32::from(q >> 4 | (fifth & 2) << 3) - less2;
            }
        }
    }
}

/// `d * s * (q - 32)` with s of 8 bits for each 16 weights; the upper two bits of q lie apart.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2", "x86_64+avx2"))]
pub(super) fn q6_k(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<210>(blocks, out) {
        let d = scale(block, 208);
        for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            // Of each 128 weights the lower bits of two, 64 apart, lie in one byte; the upper ones
            // of four, 32 apart.
            let (half, quarter, side) = (group / 8, group % 8 / 2, group % 2);
            let scale = d * f32::from(block[192 + group] as i8);
            let low = &block[64 * half + 32 * (quarter % 2) + 16 * side..][..16];
            let high = &block[128 + 32 * half + 16 * side..][..16];
            let (shift_low, shift_high) = (quarter / 2 * 4, quarter * 2);
            for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                let q = low >> shift_low & 15 | (high >> shift_high & 3) << 4;
                *out = scale * (i32::from(q) - 32) as f32;
            }
        }
    }
}
