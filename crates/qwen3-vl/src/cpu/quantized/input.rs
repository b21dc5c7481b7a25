//! Rows of x in 8 bits.

use multiversion::multiversion;
use rayon::prelude::*;

/// Values that share a scale.
pub const BLOCK: usize = 32;

/// Rows of x, each value rounded to a whole number from -127 to 127 times the scale of its block.
pub struct Rows {
    values: Vec<i8>,
    scales: Vec<f32>,
    /// Sum of a block, as rounded.
    sums: Vec<f32>,
    /// -128 times the sum of each four whole numbers: what a product with weights that are raised
    /// by 128 starts from.
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
    /// Rounds `x`, which has `width` values a row, a multiple of [`BLOCK`].
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

/// One block; its scale and its sum.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn round(x: &[f32; BLOCK], values: &mut [i8; BLOCK]) -> (f32, f32) {
    // As whole numbers, which magnitudes compare like: a compiler may reorder these.
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

/// At 2^23 the steps of f32 are whole numbers: a small value added to this is rounded (ties to
/// even) and stands in the lowest bits.
const ROUNDS: f32 = 1.5 * (1 << 23) as f32;
