//! Which tensors the formats have, and how integers are in them.

use super::words::{Along, IN_ORDER, Packing};
use crate::config::quantization::Bits;
use crate::weights::WeightsError;

/// A format of integers in groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Awq,
    Gptq,
    CompressedTensors,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Awq => "awq",
            Self::Gptq => "gptq",
            Self::CompressedTensors => "compressed-tensors",
        }
    }

    /// The tensor that says of which group each column is, if there is one.
    pub(super) fn index(self) -> &'static str {
        match self {
            Self::Awq | Self::Gptq => "g_idx",
            Self::CompressedTensors => "weight_g_idx",
        }
    }
}

/// The tensors of a layer `[out, in]` in a format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) format: Format,
    /// Of `[out, in]`.
    pub(super) integers: Packing,
    /// Name of the scales.
    pub(super) scales: &'static str,
    /// Whether they are `[out, groups]`, else `[groups, out]`.
    pub(super) scales_by_rows: bool,
    /// Name of the zero points.
    pub(super) zeros: &'static str,
    /// Of `[out, groups]`.
    pub(super) zero_points: Packing,
    /// Name of the tensor that holds the shape.
    pub(super) shape: Option<&'static str>,
}

/// AutoAWQ's `AWQ_REVERSE_ORDER`: where it puts the eight integers of a word.
const AWQ_PLACES: [u8; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

impl Layout {
    pub(super) fn new(format: Format, bits: Bits) -> Self {
        let packing = |along, by_rows, places| Packing {
            bits,
            along,
            by_rows,
            places,
        };
        match format {
            // `[in, out / 8]`, `[groups, out / 8]`.
            Format::Awq => Self {
                format,
                integers: packing(Along::Rows, false, AWQ_PLACES),
                scales: "scales",
                scales_by_rows: false,
                zeros: "qzeros",
                zero_points: packing(Along::Rows, false, AWQ_PLACES),
                shape: None,
            },
            // `[in / 8, out]`, `[groups, out / 8]`.
            Format::Gptq => Self {
                format,
                integers: packing(Along::Columns, false, IN_ORDER),
                scales: "scales",
                scales_by_rows: false,
                zeros: "qzeros",
                zero_points: packing(Along::Rows, false, IN_ORDER),
                shape: None,
            },
            // `[out, in / 8]`, `[out / 8, groups]`.
            Format::CompressedTensors => Self {
                format,
                integers: packing(Along::Columns, true, IN_ORDER),
                scales: "weight_scale",
                scales_by_rows: true,
                zeros: "weight_zero_point",
                zero_points: packing(Along::Rows, true, IN_ORDER),
                shape: Some("weight_shape"),
            },
        }
    }

    /// That a layer consists of whole words where the format has no others.
    pub(super) fn ensure_fits(
        &self,
        name: &str,
        (out, input): (usize, usize),
    ) -> Result<(), WeightsError> {
        let per_word = self.integers.bits.per_word();
        let columns = match self.format {
            Format::CompressedTensors => return Ok(()),
            Format::Awq => out,
            Format::Gptq => input,
        };
        match out.is_multiple_of(per_word) && columns.is_multiple_of(per_word) {
            true => Ok(()),
            false => Err(WeightsError::Unfit {
                name: name.into(),
                reason: format!(
                    "is of a layer with {out} outputs and {input} inputs, which are no multiples \
                     of {per_word}, as {} needs them",
                    self.format.name()
                ),
            }),
        }
    }
}
