//! Blocks of 32 weights, by ggml's `dequantize_row_*` (`ggml-quants.c`).

use multiversion::multiversion;

use super::scale;

/// Bits of the lower and of the upper half of a block's weights lie in one byte.
const HALF: usize = 16;

/// Blocks and the weights that they become.
#[inline(always)]
fn pairs<'a, const BYTES: usize>(
    blocks: &'a [u8],
    out: &'a mut [f32],
) -> impl Iterator<Item = (&'a [u8; BYTES], &'a mut [f32; 32])> {
    let blocks = blocks.as_chunks().0;
    blocks.iter().zip(out.as_chunks_mut().0)
}

/// `d * (q - 8)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2", "x86_64+avx2"))]
pub(super) fn q4_0(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<18>(blocks, out) {
        let d = scale(block, 0);
        for (i, q) in block[2..].iter().enumerate() {
            out[i] = f32::from(i16::from(q & 15) - 8) * d;
            out[i + HALF] = f32::from(i16::from(q >> 4) - 8) * d;
        }
    }
}

/// `d * q + m`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2", "x86_64+avx2"))]
pub(super) fn q4_1(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<20>(blocks, out) {
        let (d, m) = (scale(block, 0), scale(block, 2));
        for (i, q) in block[4..].iter().enumerate() {
            out[i] = f32::from(q & 15) * d + m;
            out[i + HALF] = f32::from(q >> 4) * d + m;
        }
    }
}

/// The fifth bits of all weights.
#[inline(always)]
fn fifth_bits(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |bits, byte| bits << 8 | u32::from(*byte))
}

/// `d * (q - 16)`, with fifth bits apart.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2", "x86_64+avx2"))]
pub(super) fn q5_0(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<22>(blocks, out) {
        let (d, high) = (scale(block, 0), fifth_bits(&block[2..6]));
        for (i, q) in block[6..].iter().enumerate() {
            let [low, up] = [high >> i, high >> (i + HALF)].map(|bits| (bits as i32 & 1) << 4);
            out[i] = ((i32::from(q & 15) | low) - 16) as f32 * d;
            out[i + HALF] = ((i32::from(q >> 4) | up) - 16) as f32 * d;
        }
    }
}

/// `d * q + m`, with fifth bits apart.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2", "x86_64+avx2"))]
pub(super) fn q5_1(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<24>(blocks, out) {
        let (d, m, high) = (scale(block, 0), scale(block, 2), fifth_bits(&block[4..8]));
        for (i, q) in block[8..].iter().enumerate() {
            let [low, up] = [high >> i, high >> (i + HALF)].map(|bits| (bits as i32 & 1) << 4);
            out[i] = (i32::from(q & 15) | low) as f32 * d + m;
            out[i + HALF] = (i32::from(q >> 4) | up) as f32 * d + m;
        }
    }
}

/// `d * q`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2", "x86_64+avx2"))]
pub(super) fn q8_0(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<34>(blocks, out) {
        let d = scale(block, 0);
        for (out, q) in out.iter_mut().zip(&block[2..]) {
            *out = f32::from(*q as i8) * d;
        }
    }
}
