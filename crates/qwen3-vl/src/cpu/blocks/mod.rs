//! Weights in ggml's blocks, as a file has them: a few bits each, with scales that a block shares.
//!
//! They are widened to f32 where they are used and multiplied in f32, so that a file gives the
//! numbers of its dequantised copy. ([`super::int8`] multiplies most types as integers, and
//! [`super::quantized`] weights that are rounded while they are loaded.)

mod formats;
mod k_formats;

use std::ops::Range;

use candle_core::quantized::GgmlDType;
use half::f16;

use super::vector::Weight;
use super::widen::{WidenRows, matmul_t_widened};
pub(super) use k_formats::scale_min;

/// How a type of blocks is widened.
#[derive(Debug)]
pub struct BlockFormat {
    dtype: GgmlDType,
    /// Where the scales of a block stand, in f16: all else is finite.
    scales: &'static [usize],
    widen: fn(&[u8], &mut [f32]),
}

/// Those that are known.
static FORMATS: [BlockFormat; 10] = [
    BlockFormat {
        dtype: GgmlDType::Q4_0,
        scales: &[0],
        widen: formats::q4_0,
    },
    BlockFormat {
        dtype: GgmlDType::Q4_1,
        scales: &[0, 2],
        widen: formats::q4_1,
    },
    BlockFormat {
        dtype: GgmlDType::Q5_0,
        scales: &[0],
        widen: formats::q5_0,
    },
    BlockFormat {
        dtype: GgmlDType::Q5_1,
        scales: &[0, 2],
        widen: formats::q5_1,
    },
    BlockFormat {
        dtype: GgmlDType::Q8_0,
        scales: &[0],
        widen: formats::q8_0,
    },
    BlockFormat {
        dtype: GgmlDType::Q2K,
        scales: &[80, 82],
        widen: k_formats::q2_k,
    },
    BlockFormat {
        dtype: GgmlDType::Q3K,
        scales: &[108],
        widen: k_formats::q3_k,
    },
    BlockFormat {
        dtype: GgmlDType::Q4K,
        scales: &[0, 2],
        widen: k_formats::q4_k,
    },
    BlockFormat {
        dtype: GgmlDType::Q5K,
        scales: &[0, 2],
        widen: k_formats::q5_k,
    },
    BlockFormat {
        dtype: GgmlDType::Q6K,
        scales: &[208],
        widen: k_formats::q6_k,
    },
];

impl BlockFormat {
    /// The format of that type; none if it is not known.
    pub fn of(dtype: GgmlDType) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.dtype == dtype)
    }

    /// Where the scales of a block stand, in f16.
    #[cfg(test)]
    pub(in crate::cpu) fn scales(&self) -> &[usize] {
        self.scales
    }

    /// Weights of a block.
    pub fn weights(&self) -> usize {
        self.dtype.block_size()
    }

    /// Bytes of a block.
    pub fn bytes(&self) -> usize {
        self.dtype.type_size()
    }

    /// Widens whole blocks, as exactly as ggml (`dequantize_row_*`): the same operations in f32 in
    /// the same order.
    ///
    /// # Panics
    ///
    /// If `out` has not the size of these blocks.
    pub fn widen(&self, blocks: &[u8], out: &mut [f32]) {
        let count = blocks.len() / self.bytes();
        assert!(
            blocks.len().is_multiple_of(self.bytes()) && out.len() == count * self.weights(),
            "widen: size"
        );
        (self.widen)(blocks, out);
    }

    /// Whether all weights of these blocks are finite.
    pub fn is_finite(&self, blocks: &[u8]) -> bool {
        let exponent = f16::INFINITY.to_bits();
        blocks.chunks_exact(self.bytes()).all(|block| {
            let scale = |at: &usize| u16::from_le_bytes([block[*at], block[*at + 1]]);
            let finite = |at| scale(at) & exponent != exponent;
            self.scales.iter().all(finite)
        })
    }
}

/// An f16 of a block.
#[inline(always)]
fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).widen()
}

/// A matrix `[rows, columns]` in blocks, which lie within a row.
pub struct BlockMatrix {
    format: &'static BlockFormat,
    rows: usize,
    columns: usize,
    blocks: Vec<u8>,
}

impl BlockMatrix {
    /// Takes the blocks, row by row; none if they are not as many as the sizes say.
    pub fn new(
        format: &'static BlockFormat,
        (rows, columns): (usize, usize),
        blocks: Vec<u8>,
    ) -> Option<Self> {
        let row = columns / format.weights() * format.bytes();
        let fits =
            columns.is_multiple_of(format.weights()) && row.checked_mul(rows) == Some(blocks.len());
        fits.then_some(Self {
            format,
            rows,
            columns,
            blocks,
        })
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Type of the blocks.
    pub fn dtype(&self) -> GgmlDType {
        self.format.dtype
    }

    /// All blocks, row by row.
    pub fn blocks(&self) -> &[u8] {
        &self.blocks
    }

    /// `x[m, columns] Wᵀ` into `out` `[m, rows]`, all row-major.
    ///
    /// # Panics
    ///
    /// If `x` or `out` does not have the size.
    pub fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        matmul_t_widened(x, self, (m, self.rows, self.columns), out);
    }
}

impl WidenRows for BlockMatrix {
    fn columns(&self) -> usize {
        self.columns
    }

    fn widen(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        let (weights, bytes) = (self.format.weights(), self.format.bytes());
        let first = row * (self.columns / weights);
        let [start, end] = [columns.start, columns.end].map(|at| (first + at / weights) * bytes);
        self.format.widen(&self.blocks[start..end], out);
    }
}

impl std::fmt::Debug for BlockMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} [{}, {}]", self.dtype(), self.rows, self.columns)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
