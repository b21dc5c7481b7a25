//! Numbers in bf16, two to a word, in the order in which the kernel reads them.

use multiversion::multiversion;
use rayon::prelude::*;

use super::PANEL;
use crate::cpu::transpose::transpose;

/// Rows of x that meet a panel together: with four registers of weights each, their sums take 24 of
/// AVX-512's 32 registers.
pub const ROWS: usize = 6;

/// A pair of columns of all rows of a panel: the even column is the lower half of a word.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Stripe(pub [u32; PANEL]);

impl Stripe {
    /// Zeros.
    pub const ZERO: Self = Self([0; PANEL]);
}

/// Words of a row.
pub fn pairs(columns: usize) -> usize {
    columns.div_ceil(2)
}

/// The bits of a number in bf16, rounded to nearest even as torch does; NaN stays NaN.
#[inline(always)]
pub fn round(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // Its upper bits alone could be those of an infinity.
    let nan = bits >> 16 | 0x40;
    if value.is_nan() { nan } else { rounded }
}

/// Rounds a row; behind an odd number of columns comes a zero.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn round_row(row: &[f32], out: &mut [u32]) {
    let (twos, rest) = row.as_chunks::<2>();
    for (word, [even, odd]) in out.iter_mut().zip(twos) {
        *word = round(*even) | round(*odd) << 16;
    }
    if let ([last], Some(word)) = (rest, out.last_mut()) {
        *word = round(*last);
    }
}

/// Rows of x in bf16, in groups of [`ROWS`]; the last group may have fewer. A group has the first
/// word of each of its rows, then their second words.
pub struct Rows {
    words: Vec<u32>,
    rows: usize,
    pairs: usize,
}

impl Rows {
    /// Rounds `x` `[rows, columns]`.
    pub fn new(x: &[f32], rows: usize, columns: usize) -> Self {
        let pairs = pairs(columns);
        let mut words = vec![0; rows * pairs];
        let groups = words.par_chunks_mut(ROWS * pairs);
        let groups = groups.zip(x.par_chunks(ROWS * columns));
        groups.for_each_init(
            || vec![0; pairs],
            |row, (group, x)| {
                let count = group.len() / pairs;
                for (index, x) in x.chunks_exact(columns).enumerate() {
                    round_row(x, row);
                    for (words, word) in group.chunks_exact_mut(count).zip(&*row) {
                        words[index] = *word;
                    }
                }
            },
        );
        Self { words, rows, pairs }
    }

    /// Groups of rows.
    pub fn groups(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Rows of a group, and its words.
    pub fn group(&self, index: usize) -> (usize, &[u32]) {
        let first = index * ROWS;
        let count = ROWS.min(self.rows - first);
        (
            count,
            &self.words[first * self.pairs..][..count * self.pairs],
        )
    }
}

/// Makes panels of rows of weights, in memory that it reuses.
#[derive(Default)]
pub struct Packer {
    /// Values of rows of a panel, for those who widen them.
    pub values: Vec<f32>,
    words: Vec<u32>,
    stripes: Vec<Stripe>,
}

impl Packer {
    /// The stripes of [`Packer::values`] `[rows, columns]`, of at most [`PANEL`] rows.
    pub fn pack(&mut self, columns: usize) -> &[Stripe] {
        self.stripes.resize(pairs(columns), Stripe::ZERO);
        pack(&self.values, columns, &mut self.words, &mut self.stripes);
        &self.stripes
    }

    /// The stripes of `values` `[rows, columns]` into `out`.
    pub fn pack_into(&mut self, values: &[f32], columns: usize, out: &mut [Stripe]) {
        pack(values, columns, &mut self.words, out);
    }
}

/// Rows that a panel lacks are zeros.
fn pack(values: &[f32], columns: usize, words: &mut Vec<u32>, out: &mut [Stripe]) {
    let pairs = pairs(columns);
    assert!(
        values.len() <= PANEL * columns && out.len() == pairs,
        "pack: sizes"
    );
    words.clear();
    words.resize(PANEL * pairs, 0);
    for (row, words) in values
        .chunks_exact(columns)
        .zip(words.chunks_exact_mut(pairs))
    {
        round_row(row, words);
    }
    // SAFETY: a stripe is 64 words and nothing else, words and f32 have the same size, and all bits
    // are values of both. Transposing moves them as they are.
    let (words, out) = unsafe {
        (
            std::slice::from_raw_parts(words.as_ptr().cast::<f32>(), words.len()),
            std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<f32>(), out.len() * PANEL),
        )
    };
    transpose(words, (PANEL, pairs), (0, pairs), out);
}
