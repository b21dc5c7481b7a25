//! `x Wᵀ` with weights in f32, bf16 or f16 and arithmetic in f32.
//!
//! So a bf16 checkpoint gives the same numbers as its widened f32 copy, with half the memory and
//! half the traffic: a decode step reads every weight once, which bounds its time.

use rayon::prelude::*;

use super::Output;
use super::dot::{DotWeight, Inputs, Level};
use super::pool::interrupted;
use super::product::{Columns, multiply};
use super::transpose::transpose;

/// Rows of x up to which dot products with the weights are cheaper than transposing the weights for
/// a matrix product.
pub(crate) const FEW_ROWS: usize = 16;
/// Weight rows that are transposed and multiplied at a time: a multiple of the width of gemm's
/// widest kernel, so that gemm does no packing. Packing would read with a stride of k values,
/// usually a power of two, and keep hitting the same few cache sets.
pub(super) const PANEL: usize = 64;
/// Columns of a panel that are transposed at a time: 128 KiB of f32, which fit into a core's
/// second-level cache.
pub(super) const DEPTH: usize = 512;

/// `x[m, k] * w[n, k]ᵀ`: `[m, n]`, all row-major.
///
/// # Panics
///
/// If a slice does not have the size that `m`, `n` and `k` give.
pub fn matmul_t<W: DotWeight>(x: &[f32], w: &[W], sizes: (usize, usize, usize)) -> Vec<f32> {
    let len = sizes.0 * sizes.1;
    // Not cleared: that would cost a few per cent.
    let mut out = Vec::with_capacity(len);
    // SAFETY: it has the capacity for all columns, which `fill` writes in all rows.
    unsafe {
        fill(x, w, sizes, Output(out.as_mut_ptr()));
        out.set_len(len);
    }
    out
}

/// [`matmul_t`] into `out`, whose content is ignored.
///
/// # Panics
///
/// If a slice does not have the size that `m`, `n` and `k` give.
pub fn matmul_t_into<W: DotWeight>(
    x: &[f32],
    w: &[W],
    sizes: (usize, usize, usize),
    out: &mut [f32],
) {
    assert!(out.len() == sizes.0 * sizes.1, "matmul_t: size");
    // SAFETY: `out` is borrowed mutably and has `m * n` values.
    unsafe { fill(x, w, sizes, Output(out.as_mut_ptr())) };
}

/// # Safety
///
/// `output` points to `[m, n]` values that no other thread uses.
unsafe fn fill<W: DotWeight>(x: &[f32], w: &[W], (m, n, k): (usize, usize, usize), output: Output) {
    assert!(x.len() == m * k && w.len() == n * k, "matmul_t: sizes");
    if k == 0 {
        // SAFETY: the caller guarantees it.
        unsafe { output.at(0).write_bytes(0, m * n) };
        return;
    }
    if m <= FEW_ROWS {
        let (x, panel) = (Inputs::new(x, m, k), few_rows_panel(n));
        let panels = w.par_chunks(panel * k).with_max_len(1).enumerate();
        panels.for_each(|(index, w)| match interrupted() {
            // SAFETY: these columns belong to this task alone.
            true => unsafe { Output(output.at(index * panel)).clear(w.len() / k, m, n) },
            false => few_rows(&x, w, output, index * panel, (m, n, k), false),
        });
        return;
    }
    let panels = w.par_chunks(PANEL * k).enumerate();
    panels.for_each_init(Vec::new, |scratch, (index, w)| {
        let rows = w.len() / k;
        let transposed = |first, depth, out: &mut [f32]| {
            transpose(w, (rows, k), (first, depth), out);
        };
        // SAFETY: these columns belong to this task alone.
        unsafe {
            let out = output.at(index * PANEL);
            match interrupted() {
                true => Output(out).clear(rows, m, n),
                false => many_rows(x, rows, out, (m, n, k), scratch, transposed),
            }
        }
    });
}

/// Multiplies one panel of weights `[rows, k]`, `depth` columns at a time: `transposed(first,
/// depth, out)` writes the columns from `first` on, each of `rows` values.
///
/// # Safety
///
/// `out` points to the first of `rows` columns of an `[m, n]` output that no other task writes.
pub(super) unsafe fn many_rows(
    x: &[f32],
    rows: usize,
    out: *mut f32,
    (m, n, k): (usize, usize, usize),
    scratch: &mut Vec<f32>,
    mut transposed: impl FnMut(usize, usize, &mut [f32]),
) {
    scratch.resize(rows * DEPTH.min(k), 0.0);
    for first in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - first);
        transposed(first, depth, scratch);
        // By columns: outᵀ [rows, m] (+)= w [rows, depth] times xᵀ [depth, m].
        let out = Columns {
            first: out,
            step: n,
        };
        let x = Columns {
            first: x[first..].as_ptr(),
            step: k,
        };
        // SAFETY: scratch covers [rows, depth], x m rows of which the next `depth` values exist,
        // and out `rows` columns of [m, n].
        unsafe { multiply((rows, m, depth), out, first > 0, scratch.as_ptr(), x, 1.0) };
    }
}

/// Rows of weights per panel: small panels, so that cores hardly wait for each other's last one,
/// but large enough to outweigh a task's overhead.
pub(super) fn few_rows_panel(n: usize) -> usize {
    let panel = n.div_ceil(rayon::current_num_threads() * 32);
    panel.clamp(16, 1024).next_multiple_of(TOGETHER)
}

/// Rows of weights that stay in a core's first-level cache while all rows of x are multiplied with
/// them.
pub(super) const TOGETHER: usize = 24;

/// Rows of weights `w` `[rows, k]` with all of `x` `[m, k]`, into (or, if `add`, onto) the columns
/// from `first` on of an `[m, n]` output.
pub(super) fn few_rows<W: DotWeight>(
    x: &Inputs<'_>,
    w: &[W],
    output: Output,
    first: usize,
    (m, n, k): (usize, usize, usize),
    add: bool,
) {
    for (group, w) in w.chunks(TOGETHER * k).enumerate() {
        let task = FewRows {
            x,
            w,
            output,
            first: first + group * TOGETHER,
            n,
            k,
            add,
        };
        let mut i = 0;
        while i < m {
            // As many sums as the registers hold, with the fewest loads and widened weights.
            i += match m - i {
                1 => task.run::<1, 8>(i),
                2 => task.run::<2, 4>(i),
                3 => task.run::<3, 4>(i),
                8.. if x.level() == Level::Avx512 => task.run::<8, 3>(i),
                _ if x.level() == Level::Avx512 => task.run::<4, 4>(i),
                _ => task.run::<4, 2>(i),
            };
        }
    }
}

/// Some rows of weights, and their columns of the output, from `first` on.
struct FewRows<'a, W> {
    x: &'a Inputs<'a>,
    w: &'a [W],
    output: Output,
    first: usize,
    n: usize,
    k: usize,
    add: bool,
}

impl<W: DotWeight> FewRows<'_, W> {
    /// Multiplies `M` rows of x from row i on with all rows of weights, `N` at a time. Returns `M`.
    fn run<const M: usize, const N: usize>(&self, i: usize) -> usize {
        let groups = self.w.chunks_exact(N * self.k);
        let (rest, whole) = (groups.remainder(), groups.len() * N);
        for (group, w) in groups.enumerate() {
            let w = std::array::from_fn(|n| &w[n * self.k..][..self.k]);
            self.put(i, group * N, self.x.dots::<W, M, N>(i, w));
        }
        for (row, w) in rest.chunks_exact(self.k).enumerate() {
            self.put(i, whole + row, self.x.dots::<W, M, 1>(i, [w]));
        }
        M
    }

    fn put<const M: usize, const N: usize>(&self, i: usize, row: usize, values: [[f32; M]; N]) {
        for (n, values) in values.into_iter().enumerate() {
            for (m, value) in values.into_iter().enumerate() {
                let place = (i + m) * self.n + self.first + row + n;
                // SAFETY: row and column are inside, and the column belongs to this task alone.
                unsafe {
                    let out = self.output.at(place);
                    *out = if self.add { *out + value } else { value };
                }
            }
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
