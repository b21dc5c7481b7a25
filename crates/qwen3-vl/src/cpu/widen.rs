//! `x Wᵀ` with weights in any format that can be widened to f32, and arithmetic in f32: the numbers
//! of the same product with a matrix that was widened as a whole, without the memory for it.

use std::ops::Range;

use rayon::prelude::*;

use super::Output;
use super::dot::Inputs;
use super::matmul::{DEPTH, FEW_ROWS, PANEL, few_rows, few_rows_panel, many_rows};
use super::pool::interrupted;
use super::transpose::transpose;

/// Columns that are widened at a time. A format whose blocks divide it never has to begin or end
/// inside a block.
pub const STRETCH: usize = DEPTH;

/// Rows of weights whose stretches stay in a core's first-level cache while all rows of x meet
/// them.
const TOGETHER: usize = 8;

/// A matrix of weights whose rows can be widened to f32, piece by piece.
pub trait WidenRows: Sync {
    /// Weights of a row.
    fn columns(&self) -> usize;

    /// Writes some columns of a row. They begin at a multiple of [`STRETCH`] and end at one or at
    /// the end of the row; `out` has as many values.
    fn widen(&self, row: usize, columns: Range<usize>, out: &mut [f32]);
}

/// `x[m, k] * w[n, k]ᵀ` into `out` `[m, n]`, all row-major. What an interrupted pass leaves are
/// zeros.
///
/// # Panics
///
/// If a slice or the weights do not have the size that `m`, `n` and `k` say.
pub fn matmul_t_widened(
    x: &[f32],
    w: &impl WidenRows,
    (m, n, k): (usize, usize, usize),
    out: &mut [f32],
) {
    assert!(
        x.len() == m * k && w.columns() == k && out.len() == m * n,
        "matmul_t_widened: sizes"
    );
    if m == 0 || n == 0 || k == 0 {
        out.fill(0.0);
        return;
    }
    let output = Output(out.as_mut_ptr());
    if m <= FEW_ROWS {
        few(x, w, (m, n, k), output);
    } else {
        many(x, w, (m, n, k), output);
    }
}

/// Dot products with stretches of rows, widened where the first-level cache holds them.
fn few(x: &[f32], w: &impl WidenRows, (m, n, k): (usize, usize, usize), output: Output) {
    let (x, panel) = (Inputs::new(x, m, k), few_rows_panel(n));
    let panels = (0..n.div_ceil(panel)).into_par_iter().with_max_len(1);
    panels.for_each_init(Vec::new, |scratch, index| {
        let rows = index * panel..n.min((index + 1) * panel);
        if interrupted() {
            // SAFETY: these columns belong to this task alone.
            return unsafe { Output(output.at(rows.start)).clear(rows.len(), m, n) };
        }
        for first in rows.clone().step_by(TOGETHER) {
            let group = first..rows.end.min(first + TOGETHER);
            for start in (0..k).step_by(STRETCH) {
                let columns = start..k.min(start + STRETCH);
                widen_group(w, group.clone(), columns.clone(), scratch);
                let (x, sizes) = (x.part(columns.clone()), (m, n, columns.len()));
                few_rows(&x, scratch, output, first, sizes, start > 0);
            }
        }
    });
}

/// Matrix products with panels of rows, widened and turned depth by depth.
fn many(x: &[f32], w: &impl WidenRows, (m, n, k): (usize, usize, usize), output: Output) {
    let panels = (0..n.div_ceil(PANEL)).into_par_iter();
    let scratches = || (Vec::new(), Vec::new());
    panels.for_each_init(scratches, |(scratch, widened), index| {
        let rows = index * PANEL..n.min((index + 1) * PANEL);
        let turn = |first, depth, out: &mut [f32]| {
            widen_group(w, rows.clone(), first..first + depth, widened);
            transpose(widened, (rows.len(), depth), (0, depth), out);
        };
        // SAFETY: these columns belong to this task alone.
        unsafe {
            let out = output.at(rows.start);
            match interrupted() {
                true => Output(out).clear(rows.len(), m, n),
                false => many_rows(x, rows.len(), out, (m, n, k), scratch, turn),
            }
        }
    });
}

/// The same columns of some rows, row by row.
fn widen_group(w: &impl WidenRows, rows: Range<usize>, columns: Range<usize>, out: &mut Vec<f32>) {
    out.resize(rows.len() * columns.len(), 0.0);
    for (row, out) in rows.zip(out.chunks_exact_mut(columns.len())) {
        w.widen(row, columns.clone(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::super::matmul::matmul_t;
    use super::*;

    /// Weights of one byte.
    struct Bytes {
        values: Vec<i8>,
        columns: usize,
    }

    impl WidenRows for Bytes {
        fn columns(&self) -> usize {
            self.columns
        }

        fn widen(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
            assert!(columns.start.is_multiple_of(STRETCH) && columns.len() == out.len());
            assert!(columns.end.is_multiple_of(STRETCH) || columns.end == self.columns);
            let row = &self.values[row * self.columns..][..self.columns];
            for (out, value) in out.iter_mut().zip(&row[columns]) {
                *out = f32::from(*value) / 16.0;
            }
        }
    }

    #[test]
    fn it_is_the_product_with_the_widened_matrix() {
        for (m, n, k) in [
            (1, 5, 7),
            (1, 130, 2 * STRETCH + 40),
            (2, 33, STRETCH),
            (3, 300, STRETCH + 1),
            (7, 17, 64),
            (16, 129, 3 * STRETCH - 8),
            (17, 65, STRETCH + 72),
            (40, 260, 2 * STRETCH),
        ] {
            let values: Vec<i8> = (0..n * k).map(|i| (i * 57 % 251) as i8).collect();
            let wide: Vec<f32> = values.iter().map(|v| f32::from(*v) / 16.0).collect();
            let x: Vec<f32> = (0..m * k)
                .map(|i| ((i * 31 % 97) as f32 - 48.0) / 64.0)
                .collect();
            let w = Bytes { values, columns: k };
            let mut out = vec![f32::NAN; m * n];
            matmul_t_widened(&x, &w, (m, n, k), &mut out);
            // All products and sums are exact here: whatever the order, the result is one.
            assert_eq!(out, matmul_t(&x, &wide, (m, n, k)), "{m}x{n}x{k}");
        }
    }

    #[test]
    fn nothing_gives_zeros() {
        let w = Bytes {
            values: Vec::new(),
            columns: 0,
        };
        let mut out = [1.0; 6];
        matmul_t_widened(&[], &w, (2, 3, 0), &mut out);
        assert_eq!(out, [0.0; 6]);
    }
}
