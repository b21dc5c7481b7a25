//! Weights as integers of 4 or 8 bits, of which groups in a row share a scale and a zero point
//! (AWQ, GPTQ, compressed-tensors).
//!
//! Weight = (integer - zero point) * scale, in f32. All formats are laid out in one way when they
//! are loaded: rows one behind the other, columns sorted by group ([`Columns`]).
//!
//! 4 bits: of each 64 values, the first 32 are in the low halves of 32 bytes and the others in the
//! high halves, as in ggml's `Q4_K`. So 32 bytes become two vectors of bytes without moving any.

mod columns;
mod int8;
mod scales;
mod stored;
mod widen;

use std::ops::Range;

use rayon::prelude::*;

use super::widen::{STRETCH, WidenRows, matmul_t_widened};
pub use columns::{Columns, RUN};
pub use int8::PackedInt8;
pub use scales::{Scales, Zeros, is_scale};

/// Values that are laid out together.
const BLOCK: usize = 2 * RUN;
/// Rows that are laid out at a time: a multiple of what formats pack together.
pub const PANEL: usize = 16;

/// A matrix of integers and their groups' scales and zero points.
pub struct PackedMatrix {
    rows: usize,
    columns: Columns,
    values: Values,
    scales: Scales,
    zeros: Zeros,
}

/// Integers, each row in whole blocks.
enum Values {
    /// Two in a byte.
    Nibbles(Vec<u8>),
    Bytes(Vec<u8>),
}

impl PackedMatrix {
    /// Lays out a matrix `[rows, columns]` of integers below 16, or 256 if `wide`, which `fill`
    /// writes as the file has them, some rows at a time: [`PANEL`] from a multiple of it on, or the
    /// rest. Scales and zero points are of the groups of `columns`, row by row. None if there is no
    /// memory.
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
        let groups = rows * columns.groups().len();
        assert!(scales.count() == groups, "packed: scales");
        assert!(
            zeros.count().is_none_or(|count| count == groups),
            "packed: zeros"
        );
        let stride = stride(columns.width(), wide);
        let mut values = Vec::new();
        values.try_reserve_exact(rows.checked_mul(stride)?).ok()?;
        values.resize(rows * stride, 0);
        let count = columns.count();
        let panels = values.par_chunks_mut((PANEL * stride).max(1)).enumerate();
        panels.for_each_init(Vec::new, |integers, (index, values)| {
            let rows = values.len() / stride;
            integers.resize(rows * count, 0);
            fill(index * PANEL..index * PANEL + rows, integers);
            for (row, out) in values.chunks_exact_mut(stride).enumerate() {
                let row = &integers[row * count..][..count];
                let at = |place| columns.at(place).map_or(0, |column| row[column]);
                match wide {
                    false => widen::pack_nibbles(at, out),
                    true => out
                        .iter_mut()
                        .zip(0..)
                        .for_each(|(out, place)| *out = at(place)),
                }
            }
        });
        let values = match wide {
            false => Values::Nibbles(values),
            true => Values::Bytes(values),
        };
        Some(Self {
            rows,
            columns,
            values,
            scales,
            zeros,
        })
    }

    /// Memory that the integers of such a matrix take.
    pub fn bytes_of(rows: usize, columns: &Columns, wide: bool) -> usize {
        rows.saturating_mul(stride(columns.width(), wide))
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.columns.count())
    }

    /// Bits of a weight.
    pub fn bits(&self) -> usize {
        match self.values {
            Values::Nibbles(_) => 4,
            Values::Bytes(_) => 8,
        }
    }

    /// Memory that the weights take.
    pub fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Nibbles(values) | Values::Bytes(values) => values.len(),
        };
        values + self.scales.bytes() + self.zeros.bytes() + self.columns.bytes()
    }

    /// `x[m, columns] Wᵀ` into `out` `[m, rows]`, whatever that holds, all row-major.
    ///
    /// # Panics
    ///
    /// If `x` or `out` does not have the size.
    pub fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        assert!(x.len() == m * self.columns.count(), "packed: sizes");
        let (x, width) = (self.columns.arranged(x), self.columns.width());
        matmul_t_widened(&x, self, (m, self.rows, width), out);
    }
}

/// Bytes of a row.
fn stride(width: usize, wide: bool) -> usize {
    match wide {
        false => width.div_ceil(BLOCK) * RUN,
        true => width,
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rows, columns) = self.dims();
        write!(f, "{}-bit [{rows}, {columns}]", self.bits())
    }
}

impl WidenRows for PackedMatrix {
    fn columns(&self) -> usize {
        self.columns.width()
    }

    fn widen(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        let first = columns.start;
        let runs = first / RUN..columns.end.div_ceil(RUN);
        let runs = self.columns.runs(runs);
        let (Some(start), Some(end)) = (runs.first(), runs.last()) else {
            return;
        };
        // Groups follow each other, so that a stretch has no more of them than runs.
        let groups = row * self.columns.groups().len();
        let groups = groups + *start as usize..groups + *end as usize + 1;
        let (mut scales, mut zeros) = ([0.0; STRETCH / RUN], [0.0; STRETCH / RUN]);
        self.scales.widen(groups.clone(), &mut scales);
        self.zeros.widen(groups, &mut zeros);
        let mut of_runs = [(0.0, 0.0); STRETCH / RUN];
        for (of_run, group) in of_runs.iter_mut().zip(runs) {
            let index = (group - start) as usize;
            *of_run = (scales[index], zeros[index]);
        }
        match &self.values {
            Values::Nibbles(values) => {
                let row = &values[row * stride(self.columns.width(), false)..];
                widen::nibbles(&row[first / 2..], &of_runs, out);
            }
            Values::Bytes(values) => {
                let row = &values[row * stride(self.columns.width(), true)..];
                widen::bytes(&row[first..], &of_runs, out);
            }
        }
    }
}
