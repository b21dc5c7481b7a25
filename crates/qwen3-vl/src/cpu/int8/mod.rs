//! `x Wᵀ` with integers of a few bits as weights and rows of x that are rounded to 8 bits, as in
//! llama.cpp: products of integers, and one of floats for 32 of them.
//!
//! Weight = scale * integer - least. Matrices that a checkpoint has quantised, in groups or in
//! ggml's blocks, are laid out in one way while they are loaded ([`layout`]), in the memory that
//! they take in their file. Each row of x is rounded by itself, and its sums are added in one order:
//! a token's result does not depend on the other tokens of its pass.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod ggml;
pub(super) mod input;
mod isa;
mod kernel;
mod lanes;
mod layout;
mod scales;
#[cfg(target_arch = "x86_64")]
mod vnni;

use rayon::prelude::*;

pub use ggml::is_known;
use input::{RUN, Rows};
use isa::{Isa, all_rows};
use kernel::{Eight, Five, Four, Six, Stretch};
pub(super) use layout::{Bits, PANEL};
pub(super) use scales::Scales;
use scales::{STRETCH, Widened};

use super::Output;
use super::pool::interrupted;

/// A matrix of integers.
pub struct Int8Matrix {
    rows: usize,
    columns: usize,
    bits: Bits,
    /// In panels of rows, in whole runs of columns.
    quants: Vec<u8>,
    scales: Scales,
}

impl Int8Matrix {
    /// Lays out a matrix `[rows, columns]`. `fill` is called for each panel of [`PANEL`] rows, and
    /// gives the integers of its runs of 32 columns, zeros where the matrix has none. Runs that it
    /// does not give are zeros. None if there is no memory.
    pub(super) fn new(
        (rows, columns): (usize, usize),
        bits: Bits,
        scales: Scales,
        fill: impl Fn(usize, &mut dyn FnMut(usize, &[[u8; RUN]; PANEL])) + Sync,
    ) -> Option<Self> {
        let runs = columns.div_ceil(RUN);
        let (panels, of_panel) = (rows.div_ceil(PANEL), runs * bits.of_run());
        let mut quants = Vec::new();
        quants
            .try_reserve_exact(panels.checked_mul(of_panel)?)
            .ok()?;
        quants.resize(panels * of_panel, 0);
        let all = quants.par_chunks_mut(of_panel.max(1)).enumerate();
        all.for_each(|(panel, quants)| {
            fill(panel, &mut |run, integers| {
                bits.pack(
                    integers,
                    &mut quants[bits.of_run() * run..][..bits.of_run()],
                );
            });
        });
        Some(Self {
            rows,
            columns,
            bits,
            quants,
            scales,
        })
    }

    /// Bytes of the integers of such a matrix.
    pub(super) fn bytes_of((rows, columns): (usize, usize), bits: Bits) -> usize {
        let runs = columns.div_ceil(RUN);
        let of_panel = runs.saturating_mul(bits.of_run());
        rows.div_ceil(PANEL).saturating_mul(of_panel)
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Bits of an integer.
    pub(super) fn bits(&self) -> Bits {
        self.bits
    }

    /// Memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.quants.len() + self.scales.bytes()
    }

    /// Runs of a row.
    fn runs(&self) -> usize {
        self.columns.div_ceil(RUN)
    }

    /// Some runs of a panel.
    fn quants(&self, panel: usize, first: usize) -> &[u8] {
        &self.quants[(panel * self.runs() + first) * self.bits.of_run()..]
    }

    /// Writes a row as f32.
    ///
    /// # Panics
    ///
    /// If there is no such row or `out` has not the size.
    pub fn widen_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.columns, "int8: row");
        let (panel, row, parts) = (row / PANEL, row % PANEL, self.bits.parts());
        let mut scales = Widened::new();
        for (stretch, out) in out.chunks_mut(STRETCH * RUN).enumerate() {
            let first = stretch * STRETCH;
            let runs = first..first + out.len().div_ceil(RUN);
            self.scales.widen(panel, runs, self.runs(), &mut scales);
            for (run, out) in out.chunks_mut(RUN).enumerate() {
                let quants = self.quants(panel, first + run);
                for (column, out) in out.iter_mut().enumerate() {
                    let part = parts * run + column * parts / RUN;
                    let place = usize::from(scales.places[part]);
                    let integer = f32::from(self.bits.get(quants, row, column));
                    *out = scales.scales[place][row] * integer - scales.leasts[place][row];
                }
            }
        }
    }

    /// `x[m, columns] Wᵀ` into `out` `[m, rows]`, whatever that holds, all row-major. What an
    /// interrupted pass leaves are zeros.
    ///
    /// # Panics
    ///
    /// If `x` or `out` does not have the size.
    pub fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        self.product(Isa::of_this_cpu(), x, m, out);
    }

    fn product(&self, isa: Isa, x: &[f32], m: usize, out: &mut [f32]) {
        let (n, k) = self.dims();
        assert!(x.len() == m * k && out.len() == m * n, "int8: sizes");
        if m == 0 || n == 0 || k == 0 {
            out.fill(0.0);
            return;
        }
        let x = Rows::new(x, k);
        let (panels, together) = (n.div_ceil(PANEL), together(n.div_ceil(PANEL)));
        let output = Output(out.as_mut_ptr());
        let tasks = (0..panels.div_ceil(together)).into_par_iter();
        let scratch = || (vec![[0.0; PANEL]; m], Widened::new());
        let tasks = tasks.with_max_len(1);
        tasks.for_each_init(scratch, |(sums, scales), task| {
            for panel in task * together..panels.min((task + 1) * together) {
                let first = panel * PANEL;
                let count = PANEL.min(n - first);
                sums.fill([0.0; PANEL]);
                if !interrupted() {
                    self.panel(isa, panel, &x, sums, scales);
                }
                for (row, sums) in sums.iter().enumerate() {
                    for (column, sum) in sums[..count].iter().enumerate() {
                        // SAFETY: row and column are inside, and no other task has the column.
                        unsafe { *output.at(row * n + first + column) = *sum };
                    }
                }
            }
        });
    }

    /// Adds the products of a panel with all rows of x.
    fn panel(
        &self,
        isa: Isa,
        panel: usize,
        x: &Rows,
        sums: &mut [[f32; PANEL]],
        scales: &mut Widened,
    ) {
        for first in (0..self.runs()).step_by(STRETCH) {
            let runs = first..self.runs().min(first + STRETCH);
            self.scales.widen(panel, runs.clone(), self.runs(), scales);
            let w = Stretch {
                quants: self.quants(panel, first),
                scales,
                first,
                runs: runs.len(),
            };
            // SAFETY: the CPU has the instructions; the stretch has these runs, as many as x.
            unsafe {
                match self.bits {
                    Bits::Four => all_rows::<Four>(isa, &w, x, sums),
                    Bits::Five => all_rows::<Five>(isa, &w, x, sums),
                    Bits::Six => all_rows::<Six>(isa, &w, x, sums),
                    Bits::Eight => all_rows::<Eight>(isa, &w, x, sums),
                }
            }
        }
    }
}

/// Panels of a task: few, so that cores hardly wait for each other's last one.
fn together(panels: usize) -> usize {
    let tasks = rayon::current_num_threads() * 32;
    panels.div_ceil(tasks).clamp(1, 64)
}

impl std::fmt::Debug for Int8Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rows, columns) = self.dims();
        write!(f, "{}-bit [{rows}, {columns}]", self.bits.count())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
