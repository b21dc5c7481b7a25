//! Resizing in f32, rounded once.
//!
//! ATen's `upsample_bicubic2d_aa` for float tensors, operation by operation: weights and sums in
//! f32, fused where its compiler fuses them. Sums in f64 break ties differently; in noise one value
//! in two hundred is a tie.

use std::ops::Range;

use multiversion::multiversion;

use super::Size;

/// Resizes packed RGB pixels: rows, then columns, then rounds, ties to even (torchvision's
/// transforms v1). `src` has the bytes that `from` says, and no side is zero.
pub(super) fn resize(src: &[u8], from: Size, to: Size) -> Vec<u8> {
    let side = |side: u32| side as usize;
    let wide: Vec<f32> = src.iter().map(|value| f32::from(*value)).collect();
    let rows = match from.width == to.width {
        true => wide,
        false => {
            let taps = taps(side(from.width), side(to.width));
            let mut out = vec![0.0; side(from.height) * side(to.width) * 3];
            let lines = wide.chunks_exact(side(from.width) * 3);
            for (line, out) in lines.zip(out.chunks_exact_mut(side(to.width) * 3)) {
                along(line, &taps, out);
            }
            out
        }
    };
    let columns = match from.height == to.height {
        true => rows,
        false => {
            let line = side(to.width) * 3;
            let mut out = vec![0.0; side(to.height) * line];
            let taps = taps(side(from.height), side(to.height));
            for (taps, out) in taps.iter().zip(out.chunks_exact_mut(line)) {
                across(&rows[taps.first * line..], line, &taps.weights, out);
            }
            out
        }
    };
    let level = |value: &f32| value.clamp(0.0, 255.0).round_ties_even() as u8;
    columns.iter().map(level).collect()
}

/// The inputs and weights of one output value.
struct Taps {
    /// Index of the first input value.
    first: usize,
    /// Weights of that value and of the following ones.
    weights: Vec<f32>,
}

/// `_compute_indices_min_size_weights_aa` of ATen's `UpSampleKernel.cpp`, for each output.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f32 / to as f32;
    let (support, inverse) = match scale >= 1.0 {
        true => (2.0 * scale, 1.0 / scale),
        false => (2.0, 1.0),
    };
    let of = |i: usize| {
        let center = (f64::from(scale) * (i as f64 + 0.5)) as f32;
        let edge = |at: f32| (f64::from(at) + 0.5) as usize;
        let range: Range<usize> = edge(center - support)..edge(center + support).min(from);
        let weight = |at: usize| {
            let offset = f64::from(at as f32 - center) + 0.5;
            cubic((offset * f64::from(inverse)) as f32)
        };
        let weights: Vec<f32> = range.clone().map(weight).collect();
        let total = weights.iter().fold(0.0, |total, weight| total + weight);
        Taps {
            first: range.start,
            weights: weights.iter().map(|weight| weight / total).collect(),
        }
    };
    (0..to).map(of).collect()
}

/// Catmull-Rom, a = -0.5.
fn cubic(x: f32) -> f32 {
    let x = x.abs();
    if x < 1.0 {
        (1.5f32.mul_add(x, -2.5) * x).mul_add(x, 1.0)
    } else if x < 2.0 {
        (-0.5f32).mul_add(x, 2.5).mul_add(x, -4.0).mul_add(x, 2.0)
    } else {
        0.0
    }
}

/// One line of pixels.
#[multiversion(targets("x86_64+avx2+fma"))]
fn along(line: &[f32], taps: &[Taps], out: &mut [f32]) {
    for (taps, out) in taps.iter().zip(out.as_chunks_mut::<3>().0) {
        let pixels = line[taps.first * 3..].as_chunks::<3>().0;
        let mut sum = [0.0f32; 3];
        for (weight, pixel) in taps.weights.iter().zip(pixels) {
            for (sum, value) in sum.iter_mut().zip(pixel) {
                *sum = value.mul_add(*weight, *sum);
            }
        }
        *out = sum;
    }
}

/// One line of the output, from the lines of `stride` values that `rows` begins with.
#[multiversion(targets("x86_64+avx2+fma"))]
fn across(rows: &[f32], stride: usize, weights: &[f32], out: &mut [f32]) {
    for (weight, line) in weights.iter().zip(rows.chunks_exact(stride)) {
        for (sum, value) in out.iter_mut().zip(line) {
            *sum = value.mul_add(*weight, *sum);
        }
    }
}
