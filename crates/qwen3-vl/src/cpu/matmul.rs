//! `x Wᵀ` with weights in f32, bf16 or f16 and arithmetic in f32.
//!
//! A bf16 checkpoint thus gives the same numbers as its widened f32 copy, at half the memory and
//! half the traffic: a decode step reads every weight once and is bound by nothing else.

use half::{bf16, f16};
use rayon::prelude::*;

use super::Output;
use super::dot::{DotWeight, dots};
use super::vector;

/// Rows of x up to which dot products with the weights as they lie are cheaper than turning the
/// weights for a matrix product.
const FEW_ROWS: usize = 32;
/// Weight rows that are widened, transposed and multiplied at a time: 1 MiB of f32 at k = 2048, so
/// that they stay in a core's second-level cache. A multiple of what gemm's widest kernel takes,
/// with which it needs no packing of its own: that reads with a stride of k values, which is most
/// often a power of two and then hits the same few cache sets again and again.
const PANEL: usize = 128;

/// What the product needs of a weight type.
pub trait MatWeight: DotWeight {
    /// `out[k, rows] = w[rows, k]ᵀ`.
    fn transpose(w: &[Self], rows: usize, out: &mut [f32]);
}

impl MatWeight for f32 {
    fn transpose(w: &[Self], rows: usize, out: &mut [f32]) {
        vector::transpose_f32(w, rows, out);
    }
}

impl MatWeight for bf16 {
    fn transpose(w: &[Self], rows: usize, out: &mut [f32]) {
        vector::transpose_bf16(w, rows, out);
    }
}

impl MatWeight for f16 {
    fn transpose(w: &[Self], rows: usize, out: &mut [f32]) {
        vector::transpose_f16(w, rows, out);
    }
}

/// `out[m, n] = x[m, k] * w[n, k]ᵀ`, all row-major.
///
/// # Panics
///
/// If a slice does not have the size that `m`, `n` and `k` say.
pub fn matmul_t<W: MatWeight>(
    x: &[f32],
    w: &[W],
    out: &mut [f32],
    (m, n, k): (usize, usize, usize),
) {
    assert!(
        x.len() == m * k && w.len() == n * k && out.len() == m * n,
        "matmul_t: sizes"
    );
    if out.is_empty() {
        return;
    }
    let output = Output::new(out);
    let panel = if m <= FEW_ROWS {
        few_rows_panel(n)
    } else {
        PANEL
    };
    w.par_chunks(panel * k.max(1))
        .enumerate()
        .for_each_init(Vec::new, |scratch, (index, w)| {
            let first = index * panel;
            if m <= FEW_ROWS {
                few_rows(x, w, output, first, (m, n, k));
            } else {
                let rows = w.len() / k;
                scratch.resize(w.len(), 0.0);
                W::transpose(w, rows, scratch);
                // As gemm sees it: out[first.., :]ᵀ [rows, m] = w [rows, k] times xᵀ [k, m].
                // SAFETY: the pointers cover [rows, k], [k, m] and the `rows` columns of out from
                // `first` on, which belong to this task alone.
                unsafe {
                    gemm::gemm(
                        rows,
                        m,
                        k,
                        output.at(first),
                        n as isize,
                        1,
                        false,
                        scratch.as_ptr(),
                        rows as isize,
                        1,
                        x.as_ptr(),
                        k as isize,
                        1,
                        0.0,
                        1.0,
                        false,
                        false,
                        false,
                        gemm::Parallelism::None,
                    );
                }
            }
        });
}

/// Enough panels for every core, not so many that a task is too short.
fn few_rows_panel(n: usize) -> usize {
    n.div_ceil(rayon::current_num_threads() * 8).clamp(16, 1024)
}

fn few_rows<W: MatWeight>(
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
    use super::*;

    fn check<W: MatWeight>(narrow: impl Fn(f32) -> W) {
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
            let mut out = vec![f32::NAN; m * n];
            matmul_t(&x, &w, &mut out, (m, n, k));
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
