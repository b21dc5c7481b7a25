//! `x Wᵀ` with weights in ggml's blocks (8 or 4 bits per weight and shared scales), quantized by
//! candle.
//!
//! candle's own product (`QMatMul`) is not used on the CPU: on x86 it keeps a second, rearranged
//! copy of every weight, which takes more memory than the blocks. These kernels read the blocks
//! themselves.
//!
//! Like in llama.cpp, rows of x are rounded to 8 bits too, in blocks of 32, and multiplied as
//! integers. Each row is rounded by itself, with the same rule for any number of rows: a token's
//! result must not depend on the other tokens of its pass.

mod input;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

use candle_core::quantized::k_quants::{BlockQ4K, BlockQ8_0};
use candle_core::quantized::{GgmlDType, GgmlType};
use rayon::prelude::*;

use super::Output;
use super::matmul::{TOGETHER, few_rows_panel};
use super::pool::interrupted;

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
    blocks: Blocks,
}

enum Blocks {
    Q8_0(Vec<BlockQ8_0>),
    Q4K(Vec<BlockQ4K>),
}

/// A block type with our kernel.
trait Block: GgmlType {
    /// Dot products of `N` rows of weights with `M` rows of x.
    ///
    /// # Safety
    ///
    /// [`vnni::available`]; every w and every x have the same number of values.
    #[cfg(target_arch = "x86_64")]
    unsafe fn dots<const M: usize, const N: usize>(
        w: [&[Self]; N],
        x: [input::Row<'_>; M],
    ) -> [[f32; M]; N];
}

impl Block for BlockQ8_0 {
    #[cfg(target_arch = "x86_64")]
    unsafe fn dots<const M: usize, const N: usize>(
        w: [&[Self]; N],
        x: [input::Row<'_>; M],
    ) -> [[f32; M]; N] {
        // SAFETY: the caller guarantees it.
        unsafe { vnni::dots_q8_0(w, x) }
    }
}

impl Block for BlockQ4K {
    #[cfg(target_arch = "x86_64")]
    unsafe fn dots<const M: usize, const N: usize>(
        w: [&[Self]; N],
        x: [input::Row<'_>; M],
    ) -> [[f32; M]; N] {
        // SAFETY: the caller guarantees it.
        unsafe { vnni::dots_q4k(w, x) }
    }
}

impl QuantizedMatrix {
    /// Quantizes a matrix `[rows, columns]`. `widened` writes a few of its rows as f32 at a time,
    /// so that there is never an f32 copy of the whole.
    ///
    /// # Panics
    ///
    /// If `columns` is not a multiple of the format's block.
    pub fn quantize(
        format: Format,
        (rows, columns): (usize, usize),
        widened: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) -> Self {
        let blocks = match format {
            Format::Q8_0 => Blocks::Q8_0(quantize((rows, columns), widened)),
            Format::Q4K => Blocks::Q4K(quantize((rows, columns), widened)),
        };
        Self {
            rows,
            columns,
            blocks,
        }
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Format of the blocks.
    pub fn format(&self) -> Format {
        match self.blocks {
            Blocks::Q8_0(_) => Format::Q8_0,
            Blocks::Q4K(_) => Format::Q4K,
        }
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> usize {
        match &self.blocks {
            Blocks::Q8_0(blocks) => size_of_val(blocks.as_slice()),
            Blocks::Q4K(blocks) => size_of_val(blocks.as_slice()),
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
        let sizes = (m, self.rows, self.columns);
        match &self.blocks {
            Blocks::Q8_0(w) => matmul_t(x, w, sizes, out),
            Blocks::Q4K(w) => matmul_t(x, w, sizes, out),
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

    /// Weights per block.
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

fn quantize<T: Block>(
    (rows, columns): (usize, usize),
    widened: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<T> {
    assert!(columns.is_multiple_of(T::BLCK_SIZE), "quantize: width");
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

fn matmul_t<T: Block>(x: &[f32], w: &[T], (m, n, k): (usize, usize, usize), out: &mut [f32]) {
    assert!(x.len() == m * k && out.len() == m * n, "matmul_t: sizes");
    if m == 0 || k == 0 {
        out.fill(0.0);
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if vnni::available() {
        let x = input::Rows::new(x, k);
        return by_panel(w, (m, n, k), out, |w, put| {
            // SAFETY: the CPU has the instructions, and rows of weights and of x have k values.
            unsafe { with_integers(w, k, &x, m, put) };
        });
    }
    candle(x, w, (m, n, k), out);
}

/// Multiplies a few rows of weights with m rows of x, two and four rows at a time, so that each
/// loaded value is used several times. Each product is the same sum in the same order, whatever is
/// computed with it.
///
/// # Safety
///
/// [`vnni::available`]; rows of x and of the weights have k values.
#[cfg(target_arch = "x86_64")]
unsafe fn with_integers<T: Block>(w: &[T], k: usize, x: &input::Rows, m: usize, put: Put) {
    let width = k / T::BLCK_SIZE;
    let fours = m / 4 * 4;
    // SAFETY: the caller guarantees it.
    unsafe {
        for i in (0..fours).step_by(4) {
            let x = [x.row(i), x.row(i + 1), x.row(i + 2), x.row(i + 3)];
            some_rows(w, width, x, i, put);
        }
        (fours..m).for_each(|i| some_rows(w, width, [x.row(i)], i, put));
    }
}

/// Multiplies rows of weights with the rows of x from `i` on.
///
/// # Safety
///
/// As for [`with_integers`].
#[cfg(target_arch = "x86_64")]
unsafe fn some_rows<T: Block, const M: usize>(
    w: &[T],
    width: usize,
    x: [input::Row<'_>; M],
    i: usize,
    put: Put,
) {
    let pairs = w.chunks_exact(2 * width);
    let last = pairs.remainder();
    // SAFETY: the caller guarantees it.
    unsafe {
        for (pair, w) in pairs.enumerate() {
            let (a, b) = w.split_at(width);
            let [first, second] = T::dots([a, b], x);
            for (m, (first, second)) in first.into_iter().zip(second).enumerate() {
                put.put(2 * pair, i + m, first);
                put.put(2 * pair + 1, i + m, second);
            }
        }
        if !last.is_empty() {
            let [values] = T::dots([last], x);
            let row = w.len() / width - 1;
            for (m, value) in values.into_iter().enumerate() {
                put.put(row, i + m, value);
            }
        }
    }
}

/// The product by candle's dot product: AVX2, NEON or portable.
fn candle<T: GgmlType>(x: &[f32], w: &[T], (m, n, k): (usize, usize, usize), out: &mut [f32]) {
    let width = k / T::VecDotType::BLCK_SIZE;
    let mut rounded = vec![T::VecDotType::zeros(); m * width];
    x.par_chunks_exact(k)
        .zip(rounded.par_chunks_exact_mut(width))
        .for_each(|(x, rounded)| T::VecDotType::from_float(x, rounded));
    by_panel(w, (m, n, k), out, |w, put| {
        for (i, x) in rounded.chunks_exact(width).enumerate() {
            let rows = w.chunks_exact(k / T::BLCK_SIZE).enumerate();
            // SAFETY: the weights and x have these rows.
            rows.for_each(|(row, w)| unsafe { put.put(row, i, T::vec_dot(k, w, x)) });
        }
    });
}

/// The output of a panel.
#[derive(Clone, Copy)]
struct Put {
    output: Output,
    n: usize,
}

impl Put {
    /// Writes the product of row `row` of the panel with row `i` of x.
    ///
    /// # Safety
    ///
    /// The panel and x have these rows.
    unsafe fn put(self, row: usize, i: usize, value: f32) {
        // SAFETY: the index is in bounds, and the column belongs to the panel's task alone.
        unsafe { *self.output.at(i * self.n + row) = value };
    }
}

/// Runs `dots` for all rows of weights, as many at a time as stay in a core's first-level cache
/// while all rows of x are multiplied with them.
fn by_panel<T: GgmlType>(
    w: &[T],
    (m, n, k): (usize, usize, usize),
    out: &mut [f32],
    dots: impl Fn(&[T], Put) + Sync,
) {
    assert_eq!(out.len(), m * n);
    let output = Output(out.as_mut_ptr());
    let (panel, width) = (few_rows_panel(n), k / T::BLCK_SIZE);
    let panels = w.par_chunks(panel * width).with_max_len(1).enumerate();
    panels.for_each(|(index, w)| {
        for (group, w) in w.chunks(TOGETHER * width).enumerate() {
            // The output of an interrupted pass is not used.
            if interrupted() {
                return;
            }
            // SAFETY: the group's first column is in bounds.
            let output = Output(unsafe { output.at(index * panel + group * TOGETHER) });
            dots(w, Put { output, n });
        }
    });
}

#[cfg(test)]
mod tests;
