//! A packed matrix as a GPU reads it.

use std::borrow::Cow;

use super::{PackedMatrix, Scales, Values, Zeros, stride};
use crate::cpu::stored::{StoredFormat, StoredMatrix, StoredScales, aligned};

impl PackedMatrix {
    /// It as a GPU reads it.
    pub fn stored(&self) -> StoredMatrix<'_> {
        let width = self.columns.width();
        let (format, values, wide) = match &self.values {
            Values::Nibbles(values) => (StoredFormat::Nibbles, values, false),
            Values::Bytes(values) => (StoredFormat::Bytes, values, true),
        };
        let stored = StoredMatrix::new(
            format,
            (self.rows, width),
            aligned(values, stride(width, wide)),
        );
        let places = 0..stored.columns;
        let at = |place| self.columns.at(place).map_or(u32::MAX, |c| c as u32);
        let in_place = width == self.columns.count();
        let in_place = in_place && (0..width).all(|place| self.columns.at(place) == Some(place));
        let (zeros, zero) = match &self.zeros {
            Zeros::Same(zero) => (None, usize::from(*zero)),
            Zeros::Each(zeros, offset) => (Some(zeros.as_slice()), usize::from(*offset)),
        };
        StoredMatrix {
            inputs: self.columns.count(),
            order: (!in_place).then(|| places.map(at).collect()),
            scales: match &self.scales {
                Scales::F32(scales) => StoredScales::F32(Cow::Borrowed(scales)),
                Scales::F16(scales) => StoredScales::F16(Cow::Borrowed(scales)),
                Scales::BF16(scales) => StoredScales::BF16(Cow::Borrowed(scales)),
            },
            zeros,
            index: self.columns.runs(0..width.div_ceil(super::RUN)).to_vec(),
            groups: self.columns.groups().len(),
            zero,
            ..stored
        }
    }
}
