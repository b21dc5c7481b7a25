//! Rows of x, rounded to 8 bits.

use multiversion::multiversion;
use rayon::prelude::*;

/// Values that share a scale.
pub const RUN: usize = 32;

/// Rows of x; each value is an integer from -127 to 127 times the scale of its run.
pub struct Rows {
    values: Vec<i8>,
    scales: Vec<f32>,
    /// Sum of each run's rounded values.
    sums: Vec<f32>,
    /// The same of each half of a run.
    halves: Vec<f32>,
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
    pub halves: &'a [f32],
    pub starts: &'a [i32],
}

impl Rows {
    /// Rounds the rows of `x`, each of `columns` values and filled up to whole runs with zeros.
    pub fn new(x: &[f32], columns: usize) -> Self {
        let width = columns.next_multiple_of(RUN);
        let (count, runs) = (x.len() / columns.max(1), width / RUN);
        let mut rows = Self {
            values: vec![0; count * width],
            scales: vec![0.0; count * runs],
            sums: vec![0.0; count * runs],
            halves: vec![0.0; count * runs * 2],
            starts: vec![0; count * width / 4],
            width,
        };
        if width == 0 {
            return rows;
        }
        rows.values
            .par_chunks_mut(width)
            .zip(rows.scales.par_chunks_mut(runs))
            .zip(rows.sums.par_chunks_mut(runs))
            .zip(rows.halves.par_chunks_mut(2 * runs))
            .zip(rows.starts.par_chunks_mut(width / 4))
            .zip(x.par_chunks(columns))
            .for_each(|(((((values, scales), sums), halves), starts), x)| {
                round(x, values, scales, (sums, halves), starts);
            });
        rows
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> Row<'_> {
        let (width, runs) = (self.width, self.width / RUN);
        Row {
            values: &self.values[i * width..][..width],
            scales: &self.scales[i * runs..][..runs],
            sums: &self.sums[i * runs..][..runs],
            halves: &self.halves[2 * i * runs..][..2 * runs],
            starts: &self.starts[i * width / 4..][..width / 4],
        }
    }
}

/// Rounds a row; writes its scales, sums and start values.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn round(
    x: &[f32],
    values: &mut [i8],
    scales: &mut [f32],
    (sums, halves): (&mut [f32], &mut [f32]),
    starts: &mut [i32],
) {
    let (whole, rest) = x.as_chunks::<RUN>();
    let mut last = [0.0; RUN];
    last[..rest.len()].copy_from_slice(rest);
    let last = (!rest.is_empty()).then_some(&last);
    let runs = values.as_chunks_mut::<RUN>().0.iter_mut();
    let starts = starts.as_chunks_mut::<{ RUN / 4 }>().0;
    for (i, (values, x)) in runs.zip(whole.iter().chain(last)).enumerate() {
        scales[i] = round_run(x, values);
        for (half, values) in values.as_chunks::<{ RUN / 2 }>().0.iter().enumerate() {
            let sum: i32 = values.iter().map(|value| i32::from(*value)).sum();
            halves[2 * i + half] = scales[i] * sum as f32;
        }
        let sum: i32 = values.iter().map(|value| i32::from(*value)).sum();
        sums[i] = scales[i] * sum as f32;
        for (start, four) in starts[i].iter_mut().zip(values.as_chunks::<4>().0) {
            *start = -128 * four.iter().map(|value| i32::from(*value)).sum::<i32>();
        }
    }
}

/// Rounds one run; returns its scale.
#[inline(always)]
fn round_run(x: &[f32; RUN], values: &mut [i8; RUN]) -> f32 {
    // Magnitudes compare like their bits as integers, which a compiler may reorder.
    let largest = x.iter().map(|x| x.abs().to_bits()).max();
    let scale = largest.map_or(0.0, f32::from_bits) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (value, x) in values.iter_mut().zip(x) {
        *value = (x * inverse + ROUNDS).to_bits() as i8;
    }
    scale
}

/// Adding this rounds a small value to an integer in the lowest bits (ties to even), because f32
/// has steps of 1 at 2^23.
const ROUNDS: f32 = 1.5 * (1 << 23) as f32;
