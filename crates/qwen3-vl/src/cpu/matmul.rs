//! `x Wᵀ` with weights in f32, bf16 or f16 and arithmetic in f32.
//!
//! A bf16 checkpoint thus gives the same numbers as its widened f32 copy, at half the memory and
//! half the traffic: a decode step reads every weight once and is bound by nothing else.

use rayon::prelude::*;

use super::Output;
use super::dot::{DotWeight, dots};
use super::product::{Columns, multiply};
use super::transpose::transpose;

/// Rows of x up to which dot products with the weights as they lie are cheaper than turning the
/// weights for a matrix product.
const FEW_ROWS: usize = 32;
/// Weight rows that are turned and multiplied at a time. A multiple of what gemm's widest kernel
/// takes, with which it needs no packing of its own: that reads with a stride of k values, which is
/// most often a power of two and then hits the same few cache sets again and again.
pub(super) const PANEL: usize = 64;
/// Columns of a panel that are turned at a time: 128 KiB of f32, which stay in a core's second-level
/// cache.
const DEPTH: usize = 512;

/// `x[m, k] * w[n, k]ᵀ`: `[m, n]`, all row-major.
///
/// # Panics
///
/// If a slice does not have the size that `m`, `n` and `k` say.
pub fn matmul_t<W: DotWeight>(x: &[f32], w: &[W], (m, n, k): (usize, usize, usize)) -> Vec<f32> {
    assert!(x.len() == m * k && w.len() == n * k, "matmul_t: sizes");
    if k == 0 {
        return vec![0.0; m * n];
    }
    // Clearing it first would cost a few per cent.
    let mut out = Vec::with_capacity(m * n);
    let output = Output(out.as_mut_ptr());
    let panel = if m <= FEW_ROWS {
        few_rows_panel(n)
    } else {
        PANEL
    };
    w.par_chunks(panel * k)
        .enumerate()
        .for_each_init(Vec::new, |scratch, (index, w)| {
            let first = index * panel;
            if m <= FEW_ROWS {
                few_rows(x, w, output, first, (m, n, k));
            } else {
                let rows = w.len() / k;
                let turned = |first, depth, out: &mut [f32]| {
                    transpose(w, (rows, k), (first, depth), out);
                };
                // SAFETY: the columns from `first` on belong to this task alone.
                unsafe { many_rows(x, rows, output.at(first), (m, n, k), scratch, turned) };
            }
        });
    // SAFETY: the panels are all columns, and each has been written in all rows.
    unsafe { out.set_len(m * n) };
    out
}

/// One panel of weights `[rows, k]`, multiplied depth by depth: `turned(first, depth, out)` writes
/// the columns from `first` on, each of `rows` values.
///
/// # Safety
///
/// `out` is the first of `rows` columns of an `[m, n]` output that no other task writes.
pub(super) unsafe fn many_rows(
    x: &[f32],
    rows: usize,
    out: *mut f32,
    (m, n, k): (usize, usize, usize),
    scratch: &mut Vec<f32>,
    mut turned: impl FnMut(usize, usize, &mut [f32]),
) {
    scratch.resize(rows * DEPTH.min(k), 0.0);
    for first in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - first);
        turned(first, depth, scratch);
        // By columns: outᵀ [rows, m] (+)= w [rows, depth] times xᵀ [depth, m].
        let out = Columns {
            first: out,
            step: n,
        };
        let x = Columns {
            first: x[first..].as_ptr(),
            step: k,
        };
        // SAFETY: scratch covers [rows, depth], x m rows of which the next `depth` values exist, and
        // out `rows` columns of [m, n].
        unsafe { multiply((rows, m, depth), out, first > 0, scratch.as_ptr(), x, 1.0) };
    }
}

/// Enough panels for every core, not so many that a task is too short.
pub(super) fn few_rows_panel(n: usize) -> usize {
    n.div_ceil(rayon::current_num_threads() * 8).clamp(16, 1024)
}

fn few_rows<W: DotWeight>(
    x: &[f32],
    w: &[W],
    output: Output,
    first: usize,
    (m, n, k): (usize, usize, usize),
) {
    for (row, w) in w.chunks_exact(k).enumerate() {
        // SAFETY: i < m and the column belongs to this task alone.
        let put = |i: usize, value: f32| unsafe { *output.at(i * n + first + row) = value };
        let row_of = |i: usize| &x[i * k..(i + 1) * k];
        let fours = m / 4 * 4;
        for i in (0..fours).step_by(4) {
            let values = dots([row_of(i), row_of(i + 1), row_of(i + 2), row_of(i + 3)], w);
            values
                .into_iter()
                .enumerate()
                .for_each(|(j, value)| put(i + j, value));
        }
        for i in fours..m {
            put(i, dots([row_of(i)], w)[0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn check<W: DotWeight>(narrow: impl Fn(f32) -> W) {
        for (m, n, k) in [
            (1, 5, 7),
            (3, 300, 33),
            (6, 17, 64),
            (9, 129, 40),
            (40, 260, 65),
        ] {
            let x: Vec<f32> = (0..m * k)
                .map(|i| ((i * 31 % 97) as f32 - 48.0) / 31.0)
                .collect();
            let w: Vec<W> = (0..n * k)
                .map(|i| narrow(((i * 57 % 83) as f32 - 41.0) / 16.0))
                .collect();
            let out = matmul_t(&x, &w, (m, n, k));
            for i in 0..m {
                for j in 0..n {
                    let want: f64 = (0..k)
                        .map(|l| f64::from(x[i * k + l]) * f64::from(w[j * k + l].widen()))
                        .sum();
                    let got = f64::from(out[i * n + j]);
                    assert!(
                        (got - want).abs() < 1e-4,
                        "{m}x{n}x{k} at {i},{j}: {got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn equals_the_definition() {
        check(|v| v);
        check(bf16::from_f32);
        check(f16::from_f32);
    }
}
