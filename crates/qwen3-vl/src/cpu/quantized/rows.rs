//! Blocks as ggml has them, row by row, multiplied with AVX-512 VNNI.

use candle_core::quantized::GgmlType;
use candle_core::quantized::k_quants::{BlockQ4K, BlockQ8_0};
use rayon::prelude::*;

use super::vnni;
use crate::cpu::Output;
use crate::cpu::int8::input;
use crate::cpu::matmul::{TOGETHER, few_rows_panel};
use crate::cpu::pool::interrupted;

/// A block type with a kernel.
pub trait Block: GgmlType {
    /// Dot products of `N` rows of weights with `M` rows of x.
    ///
    /// # Safety
    ///
    /// [`vnni::available`]; every w and every x have the same number of values.
    unsafe fn dots<const M: usize, const N: usize>(
        w: [&[Self]; N],
        x: [input::Row<'_>; M],
    ) -> [[f32; M]; N];
}

impl Block for BlockQ8_0 {
    unsafe fn dots<const M: usize, const N: usize>(
        w: [&[Self]; N],
        x: [input::Row<'_>; M],
    ) -> [[f32; M]; N] {
        // SAFETY: the caller guarantees it.
        unsafe { vnni::dots_q8_0(w, x) }
    }
}

impl Block for BlockQ4K {
    unsafe fn dots<const M: usize, const N: usize>(
        w: [&[Self]; N],
        x: [input::Row<'_>; M],
    ) -> [[f32; M]; N] {
        // SAFETY: the caller guarantees it.
        unsafe { vnni::dots_q4k(w, x) }
    }
}

/// `x[m, k] * w[n, k]ᵀ` into `out`.
///
/// # Safety
///
/// [`vnni::available`].
///
/// # Panics
///
/// If `x` or `out` does not have the size.
pub unsafe fn matmul_t<T: Block>(
    x: &[f32],
    w: &[T],
    (m, n, k): (usize, usize, usize),
    out: &mut [f32],
) {
    assert!(x.len() == m * k && out.len() == m * n, "matmul_t: sizes");
    if m == 0 || k == 0 {
        out.fill(0.0);
        return;
    }
    let x = input::Rows::new(x, k);
    by_panel(w, (m, n, k), out, |w, put| {
        // SAFETY: the CPU has the instructions, and rows of weights and of x have k values.
        unsafe { with_integers(w, k, &x, m, put) };
    });
}

/// Multiplies a few rows of weights with m rows of x, two and four rows at a time, so that each
/// loaded value is used several times. Each product is the same sum in the same order, whatever is
/// computed with it.
///
/// # Safety
///
/// [`vnni::available`]; rows of x and of the weights have k values.
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
