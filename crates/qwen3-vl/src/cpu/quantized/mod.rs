//! `x Wᵀ` with weights in ggml's blocks (8 or 4 bit a weight and shared scales), as candle makes them.
//!
//! candle's own product (`QMatMul`) is not used on the CPU: on x86 it keeps a second, rearranged copy
//! of every weight, which takes more memory than the blocks. Here the blocks are read as they lie.
//!
//! Few rows of x are rounded to 8 bits too, in blocks of 32, and multiplied as integers. Many rows
//! stay in f32, and the weights are widened a panel at a time for the f32 product: it costs less than
//! that many integer products do.

mod input;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{BlockQ4K, BlockQ8_0};
use rayon::prelude::*;

use super::Output;
use super::matmul::{PANEL, few_rows_panel, many_rows};
use super::transpose::transpose;

/// Rows of x up to which integer products are cheaper than widening the weights.
const FEW_ROWS: usize = 48;

/// Which blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 32 weights of 8 bits and a scale: 34 bytes.
    Q8_0,
    /// 256 weights of 4 bits, each 32 with a scale and a least value of 6 bits: 144 bytes.
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

/// A block type with a kernel of ours.
trait Block: GgmlType {
    /// A row of weights with `M` rows of x.
    ///
    /// # Safety
    ///
    /// [`vnni::available`]; `w` and every x have the same number of values.
    #[cfg(target_arch = "x86_64")]
    unsafe fn dots<const M: usize>(w: &[Self], x: [input::Row<'_>; M]) -> [f32; M];
}

impl Block for BlockQ8_0 {
    #[cfg(target_arch = "x86_64")]
    unsafe fn dots<const M: usize>(w: &[Self], x: [input::Row<'_>; M]) -> [f32; M] {
        // SAFETY: promised by the caller.
        unsafe { vnni::dots_q8_0(w, x) }
    }
}

impl Block for BlockQ4K {
    #[cfg(target_arch = "x86_64")]
    unsafe fn dots<const M: usize>(w: &[Self], x: [input::Row<'_>; M]) -> [f32; M] {
        // SAFETY: promised by the caller.
        unsafe { vnni::dots_q4k(w, x) }
    }
}

impl QuantizedMatrix {
    /// Rounds a matrix `[rows, columns]`, whose rows `widened` writes as f32: a few at a time, so that
    /// there is never an f32 copy of the whole.
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

    /// Which blocks.
    pub fn format(&self) -> Format {
        match self.blocks {
            Blocks::Q8_0(_) => Format::Q8_0,
            Blocks::Q4K(_) => Format::Q4K,
        }
    }

    /// Memory that the weights take.
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
    /// If `x` does not have that size.
    pub fn matmul_t(&self, x: &[f32], m: usize) -> Vec<f32> {
        let mut out = vec![0.0; m * self.rows];
        self.matmul_t_into(x, m, &mut out);
        out
    }

    /// [`QuantizedMatrix::matmul_t`] into `out`, whatever that holds.
    ///
    /// # Panics
    ///
    /// If `x` or `out` does not have the size.
    pub fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        let sizes = (m, self.rows, self.columns);
        match &self.blocks {
            Blocks::Q8_0(w) => matmul_t(x, w, sizes, out),
            Blocks::Q4K(w) => matmul_t(x, w, sizes, out),
        }
    }
}

impl Format {
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
    if m > FEW_ROWS {
        return widening(x, w, (m, n, k), out);
    }
    #[cfg(target_arch = "x86_64")]
    if vnni::available() {
        let x = input::Rows::new(x, k);
        return by_weight_row(w, (m, n, k), out, |w, put| {
            let fours = m / 4 * 4;
            // SAFETY: the instructions are there, and rows of weights and of x have k values.
            unsafe {
                for i in (0..fours).step_by(4) {
                    let rows = [x.row(i), x.row(i + 1), x.row(i + 2), x.row(i + 3)];
                    let values = T::dots(w, rows);
                    (0..).zip(values).for_each(|(j, value)| put(i + j, value));
                }
                (fours..m).for_each(|i| put(i, T::dots(w, [x.row(i)])[0]));
            }
        });
    }
    candle(x, w, (m, n, k), out);
}

/// With candle's dot product: AVX2, NEON or plain.
fn candle<T: GgmlType>(x: &[f32], w: &[T], (m, n, k): (usize, usize, usize), out: &mut [f32]) {
    let width = k / T::VecDotType::BLCK_SIZE;
    let mut rounded = vec![T::VecDotType::zeros(); m * width];
    for (x, rounded) in x.chunks_exact(k).zip(rounded.chunks_exact_mut(width)) {
        T::VecDotType::from_float(x, rounded);
    }
    by_weight_row(w, (m, n, k), out, |w, put| {
        let rows = rounded.chunks_exact(width).enumerate();
        rows.for_each(|(i, x)| put(i, T::vec_dot(k, w, x)));
    });
}

/// Fills `out` `[m, n]` with what `dots` puts for each of the n rows of weights, at the m rows of x.
fn by_weight_row<T: GgmlType>(
    w: &[T],
    (m, n, k): (usize, usize, usize),
    out: &mut [f32],
    dots: impl Fn(&[T], &mut dyn FnMut(usize, f32)) + Sync,
) {
    let output = Output(out.as_mut_ptr());
    let (panel, width) = (few_rows_panel(n), k / T::BLCK_SIZE);
    let panels = w.par_chunks(panel * width).enumerate();
    panels.for_each(|(index, w)| {
        for (row, w) in w.chunks_exact(width).enumerate() {
            let column = index * panel + row;
            dots(w, &mut |i, value| {
                assert!(i < m, "by_weight_row: row");
                // SAFETY: the place is inside, and the column belongs to this task alone.
                unsafe { *output.at(i * n + column) = value };
            });
        }
    });
}

/// With weights widened to f32, a panel of rows and a stretch of columns at a time.
fn widening<T: Block>(x: &[f32], w: &[T], (m, n, k): (usize, usize, usize), out: &mut [f32]) {
    let output = Output(out.as_mut_ptr());
    let width = k / T::BLCK_SIZE;
    let panels = w.par_chunks(PANEL * width).enumerate();
    panels.for_each_init(Default::default, |(scratch, wide), (index, w)| {
        let rows = w.len() / width;
        let turned = |first: usize, depth: usize, turned: &mut [f32]| {
            let wide: &mut Vec<f32> = wide;
            wide.resize(rows * depth, 0.0);
            let part = first / T::BLCK_SIZE..(first + depth) / T::BLCK_SIZE;
            for (w, wide) in w.chunks_exact(width).zip(wide.chunks_exact_mut(depth)) {
                T::to_float(&w[part.clone()], wide);
            }
            transpose(wide, (rows, depth), (0, depth), turned);
        };
        // SAFETY: the columns of this panel belong to this task alone.
        unsafe {
            many_rows(
                x,
                rows,
                output.at(index * PANEL),
                (m, n, k),
                scratch,
                turned,
            )
        };
    });
}

#[cfg(test)]
mod tests;
