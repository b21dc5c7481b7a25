//! Element-wise functions, spread over all cores.

use rayon::prelude::*;

use super::vector;

/// Values per task: few enough to spread over cores, enough to outweigh the task's overhead.
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

/// `sum += other`; a shorter `other` is added to every row of its length.
pub fn add(sum: &mut [f32], other: &[f32]) {
    let row = other.len().max(1);
    if row < sum.len() {
        sum.par_chunks_mut(row)
            .with_min_len(CHUNK.div_ceil(row))
            .for_each(|sum| vector::add(sum, other));
    } else {
        sum.par_chunks_mut(CHUNK)
            .zip(other.par_chunks(CHUNK))
            .for_each(|(sum, other)| vector::add(sum, other));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_added_to_every_row() {
        let mut sum = [1.0, 2.0, 3.0, 4.0];
        add(&mut sum, &[10.0, 20.0]);
        assert_eq!(sum, [11.0, 22.0, 13.0, 24.0]);
        add(&mut sum, &[1.0, 1.0, 1.0, 1.0]);
        assert_eq!(sum, [12.0, 23.0, 14.0, 25.0]);
    }
}
