//! Quantised matrices by a formula (`tools/reference/formats/fill.py`): integers, scales and zero
//! points that do not depend on how a format packs them.

use crate::weights::hash24;

/// A matrix `[rows, columns]`, which is `[out, in]`, by the name of its module.
pub(super) struct Matrix<'a> {
    pub module: &'a str,
    pub rows: usize,
    pub columns: usize,
    pub seed: u64,
}

impl Matrix<'_> {
    /// Its integers in `[0, 2^bits)`, row-major.
    pub fn codes(&self, bits: u32) -> Vec<u32> {
        let name = format!("{}#q", self.module);
        integers(&name, self.rows * self.columns, self.seed, 1 << bits)
    }

    /// Any finite 8-bit floats (E4M3), row-major: all patterns but NaN.
    pub fn floats(&self) -> Vec<u8> {
        let name = format!("{}#q", self.module);
        let codes = integers(&name, self.rows * self.columns, self.seed, 254);
        let pattern = |code: u32| (code / 127 * 0x80 + code % 127) as u8;
        codes.into_iter().map(pattern).collect()
    }

    /// `count` scales for integers that are about `2^spread` large, so that weights come out near
    /// `1 / sqrt(columns)`. Each is exact with `digits` binary digits.
    pub fn scales(&self, count: usize, spread: i32, digits: u32) -> Vec<f32> {
        let name = format!("{}#s", self.module);
        let exponent = exponent(self.columns, spread);
        scales(&name, count, self.seed, exponent, digits)
    }

    /// `count` zero points in `[first, 2^bits)`.
    pub fn zero_points(&self, count: usize, first: u32, bits: u32) -> Vec<u32> {
        let name = format!("{}#z", self.module);
        let found = integers(&name, count, self.seed, (1 << bits) - first);
        found.into_iter().map(|zero| first + zero).collect()
    }

    /// The group of each column in the order of activations: a random order, cut into groups.
    pub fn group_index(&self, group: usize) -> Vec<usize> {
        let name = format!("{}#g", self.module);
        let hashes: Vec<u32> = hash24(&name, self.columns, self.seed).collect();
        let mut order: Vec<usize> = (0..self.columns).collect();
        // Stable: ties go to the earlier column.
        order.sort_by_key(|column| hashes[*column]);
        let mut index = vec![0; self.columns];
        for (place, column) in order.into_iter().enumerate() {
            index[column] = place / group;
        }
        index
    }
}

/// `count` integers in `[0, below)`.
pub(super) fn integers(name: &str, count: usize, seed: u64, below: u32) -> Vec<u32> {
    hash24(name, count, seed).map(|bits| bits % below).collect()
}

/// `count` floats of `[1, 2) · 2^exponent`.
pub(super) fn scales(name: &str, count: usize, seed: u64, exponent: i32, digits: u32) -> Vec<f32> {
    let power = f32::from_bits(((127 + exponent) as u32) << 23);
    let mantissas = integers(name, count, seed, 1 << digits).into_iter();
    mantissas
        .map(|mantissa| (1.0 + mantissa as f32 / (1u32 << digits) as f32) * power)
        .collect()
}

/// The exponent of scales, see [`Matrix::scales`].
pub(super) fn exponent(columns: usize, spread: i32) -> i32 {
    let bits = usize::BITS - (columns - 1).leading_zeros();
    -(bits as i32 / 2) - spread
}
