//! Weights that are kept in bf16.

use std::ops::Range;

use rayon::prelude::*;

use super::lanes::{high, low};
use super::pack::{Packer, Stripe, pairs};
use super::{Bf16Isa, Bf16Panels, PANEL, matmul_t};

/// A matrix `[rows, columns]` in bf16, panel by panel.
pub struct Bf16Matrix {
    isa: Bf16Isa,
    rows: usize,
    columns: usize,
    stripes: Vec<Stripe>,
}

impl Bf16Matrix {
    /// Bytes of a matrix of this size; its last panel is whole.
    pub fn size(rows: usize, columns: usize) -> usize {
        let stripes = rows.div_ceil(PANEL).saturating_mul(pairs(columns));
        stripes.saturating_mul(size_of::<Stripe>())
    }

    /// Rounds a matrix to bf16. `widened` gives a few of its rows as f32 at a time, so that there
    /// is never an f32 copy of the whole.
    ///
    /// # Errors
    ///
    /// One of those of `widened`.
    ///
    /// # Panics
    ///
    /// If `widened` gives another number of values.
    pub fn round<E: Send>(
        isa: Bf16Isa,
        (rows, columns): (usize, usize),
        widened: impl Fn(Range<usize>) -> Result<Vec<f32>, E> + Sync,
    ) -> Result<Self, E> {
        let width = pairs(columns);
        let mut stripes = vec![Stripe::ZERO; rows.div_ceil(PANEL) * width];
        let panels = stripes.par_chunks_mut(width.max(1)).enumerate();
        panels.try_for_each_init(Packer::default, |packer, (index, out)| {
            let range = index * PANEL..rows.min((index + 1) * PANEL);
            let values = widened(range.clone())?;
            assert!(values.len() == range.len() * columns, "bf16: values");
            packer.pack_into(&values, columns, out);
            Ok(())
        })?;
        Ok(Self {
            isa,
            rows,
            columns,
            stripes,
        })
    }

    /// Memory that the weights take.
    pub fn bytes(&self) -> usize {
        size_of_val(self.stripes.as_slice())
    }

    /// Writes row `row` as f32.
    ///
    /// # Panics
    ///
    /// If there is no such row or `out` has another length.
    pub fn widen_row(&self, row: usize, out: &mut [f32]) {
        assert!(
            row < self.rows && out.len() == self.columns,
            "bf16: no such row"
        );
        let stripes = self.panel_at(row / PANEL);
        for (stripe, out) in stripes.iter().zip(out.chunks_mut(2)) {
            let word = stripe.0[row % PANEL];
            for (out, value) in out.iter_mut().zip([low(word), high(word)]) {
                *out = value;
            }
        }
    }

    /// `x[m, columns] Wᵀ` into `out` `[m, rows]`, whatever that holds, all row-major.
    ///
    /// # Panics
    ///
    /// If `x` or `out` does not have the size.
    pub fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        matmul_t(self, self.isa, x, m, out);
    }

    fn panel_at(&self, index: usize) -> &[Stripe] {
        let width = pairs(self.columns);
        &self.stripes[index * width..][..width]
    }
}

impl Bf16Panels for Bf16Matrix {
    fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn panel<'a>(&'a self, index: usize, pairs: Range<usize>, _: &'a mut Packer) -> &'a [Stripe] {
        &self.panel_at(index)[pairs]
    }
}

impl std::fmt::Debug for Bf16Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bf16 [{}, {}]", self.rows, self.columns)
    }
}
