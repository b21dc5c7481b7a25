//! Element-wise functions over all cores.

use rayon::prelude::*;

use super::vector;

/// Elements per task: small enough to spread, large enough to be worth a task.
const CHUNK: usize = 16 * 1024;

/// `gate = silu(gate) * up` (transformers: `Qwen3VLTextMLP`).
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    gate.par_chunks_mut(CHUNK)
        .zip(up.par_chunks(CHUNK))
        .for_each(|(gate, up)| vector::silu_mul(gate, up));
}

/// Tanh-approximated GELU in place (transformers: `gelu_pytorch_tanh`).
pub fn gelu_tanh(values: &mut [f32]) {
    values.par_chunks_mut(CHUNK).for_each(vector::gelu_tanh);
}
