//! Weights in another format, which are rounded to bf16 where they are used.

use std::ops::Range;

use super::pack::{Packer, Stripe};
use super::{Bf16Panels, PANEL};
use crate::cpu::widen::WidenRows;

/// A matrix of which each panel is widened to f32 and rounded to bf16 for its product, so that
/// there is never a bf16 copy of the whole.
pub struct Widened<'a, W> {
    /// The matrix.
    pub matrix: &'a W,
    /// Its rows.
    pub rows: usize,
}

impl<W: WidenRows> Bf16Panels for Widened<'_, W> {
    fn dims(&self) -> (usize, usize) {
        (self.rows, self.matrix.columns())
    }

    fn panel<'a>(
        &'a self,
        index: usize,
        pairs: Range<usize>,
        packer: &'a mut Packer,
    ) -> &'a [Stripe] {
        let columns = 2 * pairs.start..self.matrix.columns().min(2 * pairs.end);
        let rows = index * PANEL..self.rows.min((index + 1) * PANEL);
        let values = &mut packer.values;
        values.resize(rows.len() * columns.len(), 0.0);
        for (row, out) in rows.zip(values.chunks_exact_mut(columns.len())) {
            self.matrix.widen(row, columns.clone(), out);
        }
        packer.pack(columns.len())
    }
}
