//! The same matrices for products of integers ([`crate::cpu::int8`]).

use std::ops::Range;

use super::{Columns, PANEL, RUN, Scales, Zeros};
use crate::cpu::int8::{self, Bits, Int8Matrix};

/// A matrix of integers, whose product rounds rows of x to 8 bits.
#[derive(Debug)]
pub struct PackedInt8 {
    columns: Columns,
    matrix: Int8Matrix,
}

const _: () = assert!(PANEL == int8::PANEL);

impl PackedInt8 {
    /// Lays out a matrix, of which [`PackedMatrix::new`](super::PackedMatrix::new) takes the same.
    ///
    /// # Panics
    ///
    /// If there are too few or too many scales or zero points.
    pub fn new(
        rows: usize,
        columns: Columns,
        wide: bool,
        (scales, zeros): (Scales, Zeros),
        fill: impl Fn(Range<usize>, &mut [u8]) + Sync,
    ) -> Option<Self> {
        let (count, groups) = (columns.count(), columns.groups().len());
        assert!(scales.count() == rows * groups, "packed: scales");
        let of_zeros = zeros.count().unwrap_or(rows * groups);
        assert!(of_zeros == rows * groups, "packed: zeros");
        let scales = int8::Scales::Groups {
            scales: scales.by_panel((rows, groups)),
            zeros: zeros.by_panel((rows, groups)),
            runs: columns.runs(0..columns.width().div_ceil(RUN)).to_vec(),
            count: groups,
        };
        let bits = if wide { Bits::Eight } else { Bits::Four };
        let dims = (rows, columns.width());
        let matrix = Int8Matrix::new(dims, bits, scales, |panel, put| {
            let rows = panel * PANEL..rows.min((panel + 1) * PANEL);
            let mut integers = vec![0; rows.len() * count];
            fill(rows, &mut integers);
            for run in 0..columns.width().div_ceil(RUN) {
                let mut of_run = [[0; RUN]; PANEL];
                for place in 0..RUN {
                    let Some(column) = columns.at(RUN * run + place) else {
                        continue;
                    };
                    let rows = integers.chunks_exact(count);
                    for (of_run, row) in of_run.iter_mut().zip(rows) {
                        of_run[place] = row[column];
                    }
                }
                put(run, &of_run);
            }
        });
        matrix.map(|matrix| Self { columns, matrix })
    }

    /// Memory that the integers of such a matrix take.
    pub fn bytes_of(rows: usize, columns: &Columns, wide: bool) -> usize {
        let bits = if wide { Bits::Eight } else { Bits::Four };
        Int8Matrix::bytes_of((rows, columns.width()), bits)
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.matrix.dims().0, self.columns.count())
    }

    /// Bits of a weight.
    pub fn bits(&self) -> usize {
        self.matrix.bits().count()
    }

    /// Memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.matrix.bytes() + self.columns.bytes()
    }

    /// `x[m, columns] Wᵀ` into `out` `[m, rows]`, whatever that holds, all row-major.
    ///
    /// # Panics
    ///
    /// If `x` or `out` does not have the size.
    pub fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        assert!(x.len() == m * self.columns.count(), "packed: sizes");
        let x = self.columns.arranged(x);
        self.matrix.matmul_t_into(&x, m, out);
    }
}
