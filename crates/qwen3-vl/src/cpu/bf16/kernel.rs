//! The product: tiles of rows of x and rows of weights, whose sums stay in registers.

use std::ops::Range;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::lanes::Avx512;
use super::lanes::{Emulated, LANES, Lanes};
use super::pack::{Packer, ROWS, Rows, Stripe, pairs};
use super::{Bf16Isa, Bf16Panels, PANEL};
use crate::cpu::Output;
use crate::cpu::pool::interrupted;

/// Pairs of columns that all rows of x meet before the next ones: 128 KiB of a panel, which fit
/// into a core's second-level cache.
pub const DEPTH: usize = 512;
/// Registers of a stripe.
const REGISTERS: usize = PANEL / LANES;
/// Groups of rows of a task, at least: fewer would read a panel too often.
const LEAST_GROUPS: usize = 16;
/// Groups of rows of a task, at most: an interrupted pass ends with the running tasks.
const MOST_GROUPS: usize = 128;

/// `x[m, columns] Wᵀ` into `out` `[m, rows]`, whatever that holds, all row-major. An interrupted
/// pass leaves zeros.
///
/// # Panics
///
/// If `x` or `out` does not have the size.
pub fn matmul_t(w: &impl Bf16Panels, isa: Bf16Isa, x: &[f32], m: usize, out: &mut [f32]) {
    let (n, k) = w.dims();
    assert!(
        x.len() == m * k && out.len() == m * n,
        "bf16 matmul_t: sizes"
    );
    if m == 0 || n == 0 || k == 0 {
        out.fill(0.0);
        return;
    }
    let x = Rows::new(x, m, k);
    let (panels, part) = (n.div_ceil(PANEL), groups_of_task(n, x.groups()));
    let parts = x.groups().div_ceil(part);
    let output = Output(out.as_mut_ptr());
    let tasks = (0..panels * parts).into_par_iter().with_max_len(1);
    tasks.for_each_init(Packer::default, |packer, task| {
        let (panel, group) = (task / parts, task % parts * part);
        let groups = group..x.groups().min(group + part);
        let first = panel * PANEL;
        let task = Task {
            isa,
            // SAFETY: the panel's first column is in bounds.
            output: Output(unsafe { output.at(first) }),
            columns: PANEL.min(n - first),
            step: n,
        };
        // SAFETY: the rows of these groups and the columns of this panel belong to this task
        // alone, and `out` outlives it.
        unsafe {
            match interrupted() {
                true => {
                    let rows = groups.start * ROWS..m.min(groups.end * ROWS);
                    let output = Output(task.output.at(rows.start * n));
                    output.clear(task.columns, rows.len(), n);
                }
                false => task.run(w, panel, &x, groups, packer),
            }
        }
    });
}

/// Groups of rows for one task: as many as leave each thread a few tasks.
fn groups_of_task(n: usize, groups: usize) -> usize {
    let wanted = rayon::current_num_threads() * 4;
    let parts = wanted.div_ceil(n.div_ceil(PANEL));
    groups.div_ceil(parts).clamp(LEAST_GROUPS, MOST_GROUPS)
}

/// The columns of a panel in some rows of the output.
struct Task {
    isa: Bf16Isa,
    /// The panel's first column, in the first row.
    output: Output,
    columns: usize,
    /// Values from one row of the output to the next.
    step: usize,
}

impl Task {
    /// # Safety
    ///
    /// The output has the rows of these groups and the task's columns, which no other task writes.
    unsafe fn run(
        &self,
        w: &impl Bf16Panels,
        panel: usize,
        x: &Rows,
        groups: Range<usize>,
        packer: &mut Packer,
    ) {
        let all = pairs(w.dims().1);
        for start in (0..all).step_by(DEPTH) {
            let range = start..all.min(start + DEPTH);
            let w = w.panel(panel, range.clone(), packer);
            for group in groups.clone() {
                let (rows, words) = x.group(group);
                let words = &words[range.start * rows..range.end * rows];
                // SAFETY: the caller guarantees it.
                unsafe {
                    let out = Output(self.output.at(group * ROWS * self.step));
                    match rows {
                        1 => self.tile::<1>(w, words, out, start > 0),
                        2 => self.tile::<2>(w, words, out, start > 0),
                        3 => self.tile::<3>(w, words, out, start > 0),
                        4 => self.tile::<4>(w, words, out, start > 0),
                        5 => self.tile::<5>(w, words, out, start > 0),
                        _ => self.tile::<ROWS>(w, words, out, start > 0),
                    }
                }
            }
        }
    }

    /// Adds the products of `M` rows of x with a panel to the sums of the pairs before, if there
    /// are any. These stand in the output, so that a chain of additions goes on where it ended.
    ///
    /// # Safety
    ///
    /// As for [`Task::run`].
    unsafe fn tile<const M: usize>(&self, w: &[Stripe], x: &[u32], out: Output, add: bool) {
        let mut sums = [[0f32; PANEL]; M];
        let x = x.as_chunks::<M>().0;
        // SAFETY: the caller guarantees the output's rows and columns, and whoever chose the
        // instructions that the CPU has them.
        unsafe {
            if add {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let from = out.at(row * self.step);
                    from.copy_to_nonoverlapping(sums.as_mut_ptr(), self.columns);
                }
            }
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Bf16Isa::Avx512 => multiply_avx512(w, x, &mut sums),
                _ => multiply::<Emulated, M>(w, x, &mut sums),
            }
            for (row, sums) in sums.iter().enumerate() {
                let to = out.at(row * self.step);
                to.copy_from_nonoverlapping(sums.as_ptr(), self.columns);
            }
        }
    }
}

/// # Safety
///
/// The CPU has AVX512-BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn multiply_avx512<const M: usize>(
    w: &[Stripe],
    x: &[[u32; M]],
    sums: &mut [[f32; PANEL]; M],
) {
    // SAFETY: the caller guarantees it.
    unsafe { multiply::<Avx512, M>(w, x, sums) };
}

/// Adds the products of `M` rows of x with the rows of a panel to their sums, pair by pair.
///
/// # Safety
///
/// The CPU has the instructions of `L`.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "registers and memory have the same index"
)]
unsafe fn multiply<L: Lanes, const M: usize>(
    w: &[Stripe],
    x: &[[u32; M]],
    sums: &mut [[f32; PANEL]; M],
) {
    // SAFETY: stripes and sums have all lanes; the caller guarantees the instructions.
    unsafe {
        // Loops, because closures would not be inlined into code with target features.
        let mut tile = [[L::load_sums(sums[0].as_ptr()); REGISTERS]; M];
        for m in 0..M {
            for n in 0..REGISTERS {
                tile[m][n] = L::load_sums(sums[m].as_ptr().add(n * LANES));
            }
        }
        for (stripe, x) in w.iter().zip(x) {
            let mut weights = [L::load_pairs(stripe.0.as_ptr()); REGISTERS];
            for n in 1..REGISTERS {
                weights[n] = L::load_pairs(stripe.0.as_ptr().add(n * LANES));
            }
            for m in 0..M {
                let value = L::splat(x[m]);
                for n in 0..REGISTERS {
                    tile[m][n] = L::dot_pairs(tile[m][n], value, weights[n]);
                }
            }
        }
        for m in 0..M {
            for n in 0..REGISTERS {
                L::store_sums(tile[m][n], sums[m].as_mut_ptr().add(n * LANES));
            }
        }
    }
}
