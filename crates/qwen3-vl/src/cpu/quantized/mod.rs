//! `x Wᵀ` with weights that are rounded to ggml's blocks while they are loaded (8 or 4 bits per
//! weight and shared scales), by candle.
//!
//! candle's own product (`QMatMul`) is not used on the CPU: on x86 it keeps a second, rearranged
//! copy of every weight, which takes more memory than the blocks.
//!
//! Like in llama.cpp, rows of x are rounded to 8 bits too, in runs of 32, and multiplied as
//! integers. Each row is rounded by itself, with the same rule for any number of rows: a token's
//! result must not depend on the other tokens of its pass.

#[cfg(target_arch = "x86_64")]
mod rows;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::convert::Infallible;
use std::ops::Range;

use candle_core::quantized::k_quants::{BlockQ4K, BlockQ8_0};
use candle_core::quantized::{GgmlDType, GgmlType};
use rayon::prelude::*;

use super::blocks::{BlockFormat, BlockMatrix};
use super::int8::Int8Matrix;

/// Rows to quantize at a time.
const PANEL: usize = 64;

/// Format of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 32 weights of 8 bits and a scale: 34 bytes.
    Q8_0,
    /// 256 weights of 4 bits; each 32 have a scale and a minimum of 6 bits: 144 bytes.
    Q4K,
}

/// A weight matrix in blocks.
pub struct QuantizedMatrix {
    rows: usize,
    columns: usize,
    format: Format,
    blocks: Blocks,
}

enum Blocks {
    /// For AVX-512 VNNI, as candle has them.
    #[cfg(target_arch = "x86_64")]
    Q8_0(Vec<BlockQ8_0>),
    #[cfg(target_arch = "x86_64")]
    Q4K(Vec<BlockQ4K>),
    /// For other CPUs, taken apart.
    Integers(Int8Matrix),
}

impl QuantizedMatrix {
    /// Quantizes a matrix `[rows, columns]`. `widened` writes a few of its rows as f32 at a time,
    /// so that there is never an f32 copy of the whole. None if there is no memory.
    ///
    /// # Panics
    ///
    /// If `columns` is not a multiple of the format's block.
    pub fn quantize(
        format: Format,
        (rows, columns): (usize, usize),
        widened: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) -> Option<Self> {
        assert!(columns.is_multiple_of(format.block()), "quantize: width");
        let dims = (rows, columns);
        let blocks = match format {
            #[cfg(target_arch = "x86_64")]
            Format::Q8_0 if vnni::available() => Blocks::Q8_0(quantize(dims, widened)),
            #[cfg(target_arch = "x86_64")]
            Format::Q4K if vnni::available() => Blocks::Q4K(quantize(dims, widened)),
            _ => Blocks::Integers(integers(format, dims, widened)?),
        };
        Some(Self {
            rows,
            columns,
            format,
            blocks,
        })
    }

    /// Memory that such a matrix takes.
    pub(crate) fn size(format: Format, dims: (usize, usize)) -> usize {
        let as_blocks = format.bytes(dims.0.saturating_mul(dims.1));
        #[cfg(target_arch = "x86_64")]
        if vnni::available() {
            return as_blocks;
        }
        Int8Matrix::size(format.dtype(), dims).unwrap_or(as_blocks)
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Format of the blocks.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> usize {
        match &self.blocks {
            #[cfg(target_arch = "x86_64")]
            Blocks::Q8_0(blocks) => size_of_val(blocks.as_slice()),
            #[cfg(target_arch = "x86_64")]
            Blocks::Q4K(blocks) => size_of_val(blocks.as_slice()),
            Blocks::Integers(matrix) => matrix.bytes(),
        }
    }

    /// `x[m, columns] Wᵀ`: `[m, rows]`, all row-major.
    ///
    /// # Panics
    ///
    /// If `x` does not have `m * columns` values.
    pub fn matmul_t(&self, x: &[f32], m: usize) -> Vec<f32> {
        let mut out = vec![0.0; m * self.rows];
        self.matmul_t_into(x, m, &mut out);
        out
    }

    /// [`QuantizedMatrix::matmul_t`] into `out`, whose content is ignored.
    ///
    /// # Panics
    ///
    /// If `x` or `out` has another size.
    pub fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        let sizes = (m, self.rows, self.columns);
        match &self.blocks {
            // SAFETY: there are such blocks only if the CPU has the instructions.
            #[cfg(target_arch = "x86_64")]
            Blocks::Q8_0(w) => unsafe { rows::matmul_t(x, w, sizes, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Blocks::Q4K(w) => unsafe { rows::matmul_t(x, w, sizes, out) },
            Blocks::Integers(matrix) => matrix.matmul_t_into(x, m, out),
        }
    }
}

impl Format {
    /// Bytes of `weights` weights.
    pub(crate) fn bytes(self, weights: usize) -> usize {
        let of_block = match self {
            Self::Q8_0 => 34,
            Self::Q4K => 144,
        };
        (weights / self.block()).saturating_mul(of_block)
    }

    /// The type of ggml that it is.
    pub fn dtype(self) -> GgmlDType {
        match self {
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4K => GgmlDType::Q4K,
        }
    }

    /// Weights in a block.
    pub fn block(self) -> usize {
        match self {
            Self::Q8_0 => BlockQ8_0::BLCK_SIZE,
            Self::Q4K => BlockQ4K::BLCK_SIZE,
        }
    }
}

impl std::fmt::Debug for QuantizedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rows, columns) = self.dims();
        write!(f, "{:?} [{rows}, {columns}]", self.format())
    }
}

/// Blocks of all rows.
#[cfg(target_arch = "x86_64")]
fn quantize<T: GgmlType>(
    (rows, columns): (usize, usize),
    widened: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<T> {
    let width = columns / T::BLCK_SIZE;
    let mut blocks = vec![T::zeros(); rows * width];
    let chunks = blocks.par_chunks_mut((width * PANEL).max(1)).enumerate();
    chunks.for_each_init(Vec::new, |values, (index, blocks)| {
        values.resize(blocks.len() * T::BLCK_SIZE, 0.0);
        let first = index * PANEL;
        widened(first..first + blocks.len() / width, values);
        T::from_float(values, blocks);
    });
    blocks
}

/// The same, taken apart panel by panel.
fn integers(
    format: Format,
    (rows, columns): (usize, usize),
    widened: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Option<Int8Matrix> {
    let blocks = |rows| Ok::<_, Infallible>(bytes(format, rows, columns, &widened));
    match Int8Matrix::of_blocks(format.dtype(), (rows, columns), blocks) {
        Ok(matrix) => matrix,
        Err(never) => match never {},
    }
}

/// A matrix `[rows, columns]` that is rounded to blocks and multiplied in f32; `widened` is that of
/// [`QuantizedMatrix::quantize`]. None if there is no memory.
///
/// # Panics
///
/// If `columns` is not a multiple of the format's block.
pub fn round(
    format: Format,
    (rows, columns): (usize, usize),
    widened: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Option<BlockMatrix> {
    assert!(columns.is_multiple_of(format.block()), "round: width");
    let (of_row, mut all) = (format.bytes(columns), Vec::new());
    all.try_reserve_exact(rows.checked_mul(of_row)?).ok()?;
    all.resize(rows * of_row, 0);
    let chunks = all.par_chunks_mut((of_row * PANEL).max(1)).enumerate();
    chunks.for_each(|(index, out)| {
        let first = index * PANEL;
        let rows = first..first + out.len() / of_row;
        out.copy_from_slice(&bytes(format, rows, columns, &widened));
    });
    BlockMatrix::new(BlockFormat::of(format.dtype())?, (rows, columns), all)
}

/// The blocks of some rows, as in a file.
fn bytes(
    format: Format,
    rows: Range<usize>,
    columns: usize,
    widened: impl Fn(Range<usize>, &mut [f32]),
) -> Vec<u8> {
    let mut values = vec![0.0; rows.len() * columns];
    widened(rows, &mut values);
    match format {
        Format::Q8_0 => bytes_of::<BlockQ8_0>(&values),
        Format::Q4K => bytes_of::<BlockQ4K>(&values),
    }
}

fn bytes_of<T: GgmlType>(values: &[f32]) -> Vec<u8> {
    let mut blocks = vec![T::zeros(); values.len() / T::BLCK_SIZE];
    T::from_float(values, &mut blocks);
    let size = size_of_val(blocks.as_slice());
    // SAFETY: blocks are plain numbers without gaps, as in a file: their size is that of ggml.
    let bytes = unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), size) };
    bytes.to_vec()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
