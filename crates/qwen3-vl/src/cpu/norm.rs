//! Norms and rotations by row, spread over all cores.

use rayon::prelude::*;

use super::vector;

/// Values per task: few enough to spread over cores, enough to outweigh the task's overhead.
const TASK: usize = 16 * 1024;

fn rows_per_task(width: usize) -> usize {
    TASK.div_ceil(width.max(1))
}

/// `out = x / rms(x) * weight` for rows of `weight.len()` (transformers: `Qwen3VLTextRMSNorm`).
///
/// # Panics
///
/// If the sizes differ.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(
        x.len() == out.len() && x.len().is_multiple_of(width),
        "rms_norm: sizes"
    );
    out.par_chunks_exact_mut(width)
        .zip(x.par_chunks_exact(width))
        .with_min_len(rows_per_task(width))
        .for_each(|(out, x)| vector::rms_norm(x, weight, eps, out));
}

/// `out = (x - mean(x)) / std(x) * weight + bias` for rows of `weight.len()` (torch: `LayerNorm`).
///
/// # Panics
///
/// If the sizes differ.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(
        x.len() == out.len() && x.len().is_multiple_of(width) && bias.len() == width,
        "layer_norm: sizes"
    );
    out.par_chunks_exact_mut(width)
        .zip(x.par_chunks_exact(width))
        .with_min_len(rows_per_task(width))
        .for_each(|(out, x)| vector::layer_norm(x, weight, bias, eps, out));
}

/// Rotates heads: value j of a head with value `j + head_dim / 2` (transformers: `rotate_half`).
///
/// `x` has rows of `stride` values, of which the first `heads * head_dim` are used; `cos` and `sin`
/// are `[rows, head_dim / 2]`, `out` is `[rows, heads, head_dim]`.
///
/// # Panics
///
/// If the sizes do not fit.
pub fn rotate(
    x: &[f32],
    stride: usize,
    (heads, head_dim): (usize, usize),
    (cos, sin): (&[f32], &[f32]),
    out: &mut [f32],
) {
    let (width, half) = (heads * head_dim, head_dim / 2);
    let rows = out.len() / width.max(1);
    assert!(
        width <= stride
            && out.len() == rows * width
            && (rows == 0 || x.len() >= (rows - 1) * stride + width)
            && cos.len() == rows * half
            && sin.len() == rows * half,
        "rotate: sizes"
    );
    out.par_chunks_exact_mut(width)
        .zip(x.par_chunks(stride))
        .zip(cos.par_chunks_exact(half).zip(sin.par_chunks_exact(half)))
        .with_min_len(rows_per_task(width))
        .for_each(|((out, x), (cos, sin))| {
            for (out, x) in out.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
                vector::rotate(x, cos, sin, out);
            }
        });
}
