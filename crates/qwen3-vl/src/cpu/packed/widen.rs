//! Integers to f32 and back.
//!
//! Loops that the compiler turns into vector instructions. A difference of integers is exact in
//! f32, so that there is one rounding, that of the product, and none with scales of 16 bits.

use multiversion::multiversion;

use super::{BLOCK, RUN};
use crate::cpu::widen::STRETCH;

/// Scale and zero point of each run of a stretch.
type OfRuns = [(f32, f32); STRETCH / RUN];

/// Lays out a row: `at` gives the integer at a place, for as many places as `out` has halves of
/// bytes.
pub fn pack_nibbles(at: impl Fn(usize) -> u8, out: &mut [u8]) {
    for (block, out) in out.chunks_exact_mut(RUN).enumerate() {
        for (index, out) in out.iter_mut().enumerate() {
            let place = block * BLOCK + index;
            *out = at(place) & 15 | at(place + RUN) << 4;
        }
    }
}

/// A stretch of a row of 4-bit integers, from its first byte on.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2+fma"))]
pub fn nibbles(values: &[u8], of_runs: &OfRuns, out: &mut [f32]) {
    let bytes = values.as_chunks::<RUN>().0;
    let runs = of_runs.as_chunks::<2>().0;
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    let whole = blocks.len();
    for ((bytes, runs), out) in bytes.iter().zip(runs).zip(blocks) {
        block(bytes, runs, out);
    }
    if let (false, Some(bytes), Some(runs)) = (rest.is_empty(), bytes.get(whole), runs.get(whole)) {
        let mut last = [0.0; BLOCK];
        block(bytes, runs, &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[inline(always)]
fn block(bytes: &[u8; RUN], [low, high]: &[(f32, f32); 2], out: &mut [f32; BLOCK]) {
    let (first, second) = out.split_at_mut(RUN);
    for (out, byte) in first.iter_mut().zip(bytes) {
        *out = (f32::from(byte & 15) - low.1) * low.0;
    }
    for (out, byte) in second.iter_mut().zip(bytes) {
        *out = (f32::from(byte >> 4) - high.1) * high.0;
    }
}

/// A stretch of a row of 8-bit integers, from its first byte on.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2+fma"))]
pub fn bytes(values: &[u8], of_runs: &OfRuns, out: &mut [f32]) {
    let runs = out.chunks_mut(RUN).zip(values.chunks(RUN));
    for ((out, bytes), (scale, zero)) in runs.zip(of_runs) {
        for (out, byte) in out.iter_mut().zip(bytes) {
            *out = (f32::from(*byte) - zero) * scale;
        }
    }
}
