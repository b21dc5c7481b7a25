//! Rows of x, quantized to 8 bits.

use multiversion::multiversion;
use rayon::prelude::*;

/// Values that share a scale.
pub const BLOCK: usize = 32;

/// Rows of x; each value is an integer from -127 to 127 times the scale of its block.
pub struct Rows {
    values: Vec<i8>,
    scales: Vec<f32>,
    /// Sum of each block's rounded values.
    sums: Vec<f32>,
    /// -128 times the sum of each four integers: the start value of a product with weights that are
    /// raised by 128.
    starts: Vec<i32>,
    width: usize,
}

/// One row.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub values: &'a [i8],
    pub scales: &'a [f32],
    pub sums: &'a [f32],
    pub starts: &'a [i32],
}

impl Rows {
    /// Quantizes `x`, with `width` values per row, a multiple of [`BLOCK`].
    pub fn new(x: &[f32], width: usize) -> Self {
        let blocks = x.len() / BLOCK;
        let mut rows = Self {
            values: vec![0; x.len()],
            scales: vec![0.0; blocks],
            sums: vec![0.0; blocks],
            starts: vec![0; x.len() / 4],
            width,
        };
        let per_row = width / BLOCK;
        rows.values
            .par_chunks_mut(width)
            .zip(rows.scales.par_chunks_mut(per_row))
            .zip(rows.sums.par_chunks_mut(per_row))
            .zip(rows.starts.par_chunks_mut(width / 4))
            .zip(x.par_chunks(width))
            .for_each(|((((values, scales), sums), starts), x)| {
                let blocks = values.as_chunks_mut().0.iter_mut().zip(x.as_chunks().0);
                for (i, (values, x)) in blocks.enumerate() {
                    (scales[i], sums[i]) = round(x, values);
                }
                for (start, four) in starts.iter_mut().zip(values.chunks_exact(4)) {
                    *start = -128 * four.iter().map(|value| i32::from(*value)).sum::<i32>();
                }
            });
        rows
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> Row<'_> {
        let (width, blocks) = (self.width, self.width / BLOCK);
        Row {
            values: &self.values[i * width..][..width],
            scales: &self.scales[i * blocks..][..blocks],
            sums: &self.sums[i * blocks..][..blocks],
            starts: &self.starts[i * width / 4..][..width / 4],
        }
    }
}

/// Quantizes one block; returns its scale and its sum.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn round(x: &[f32; BLOCK], values: &mut [i8; BLOCK]) -> (f32, f32) {
    // Magnitudes compare like their bits as integers, which a compiler may reorder.
    let largest = x.iter().map(|x| x.abs().to_bits()).max();
    let scale = largest.map_or(0.0, f32::from_bits) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut sum = 0;
    for (value, x) in values.iter_mut().zip(x) {
        *value = (x * inverse + ROUNDS).to_bits() as i8;
        sum += i32::from(*value);
    }
    (scale, scale * sum as f32)
}

/// Adding this rounds a small value to an integer in the lowest bits (ties to even), because f32
/// has steps of 1 at 2^23.
const ROUNDS: f32 = 1.5 * (1 << 23) as f32;
