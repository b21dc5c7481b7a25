//! Scales and zero points of groups.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::PANEL;

/// Scales, in the type that they are stored in.
#[derive(Debug)]
pub enum Scales {
    /// Half precision.
    F16(Vec<f16>),
    /// bfloat16.
    BF16(Vec<bf16>),
    /// Single precision.
    F32(Vec<f32>),
}

/// Zero points.
#[derive(Debug)]
pub enum Zeros {
    /// One for all groups.
    Same(u16),
    /// One for each group, and what is added to all of them.
    Each(Vec<u8>, u8),
}

/// The largest difference of an integer and a zero point.
const LARGEST: f32 = 256.0;

/// Whether all weights of this scale are finite.
pub fn is_scale(scale: f32) -> bool {
    (scale * LARGEST).is_finite()
}

impl Scales {
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::F16(scales) => scales.len(),
            Self::BF16(scales) => scales.len(),
            Self::F32(scales) => scales.len(),
        }
    }

    /// Memory that they take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F16(scales) => size_of_val(scales.as_slice()),
            Self::BF16(scales) => size_of_val(scales.as_slice()),
            Self::F32(scales) => size_of_val(scales.as_slice()),
        }
    }

    /// Those of a matrix `[rows, groups]` in the order of [panels](by_panel).
    pub(super) fn by_panel(&self, size: (usize, usize)) -> Self {
        match self {
            Self::F16(scales) => Self::F16(by_panel(scales, size)),
            Self::BF16(scales) => Self::BF16(by_panel(scales, size)),
            Self::F32(scales) => Self::F32(by_panel(scales, size)),
        }
    }

    /// Some of them as f32, at the start of `out`.
    pub(in crate::cpu) fn widen(&self, groups: Range<usize>, out: &mut [f32]) {
        let out = &mut out[..groups.len()];
        match self {
            Self::F16(scales) => scales[groups].convert_to_f32_slice(out),
            Self::BF16(scales) => scales[groups].convert_to_f32_slice(out),
            Self::F32(scales) => out.copy_from_slice(&scales[groups]),
        }
    }
}

impl Zeros {
    /// Zero points with `offset` added to each: one number if all are the same.
    pub fn new(zeros: Vec<u8>, offset: u8) -> Self {
        match zeros.first() {
            Some(first) if zeros.iter().all(|zero| zero == first) => {
                Self::Same(u16::from(*first) + u16::from(offset))
            }
            _ => Self::Each(zeros, offset),
        }
    }

    /// How many there are, if there is one for each group.
    pub fn count(&self) -> Option<usize> {
        match self {
            Self::Same(_) => None,
            Self::Each(zeros, _) => Some(zeros.len()),
        }
    }

    /// Memory that they take.
    pub fn bytes(&self) -> usize {
        self.count().unwrap_or(0)
    }

    /// Those of a matrix `[rows, groups]` in the order of [panels](by_panel).
    pub(super) fn by_panel(&self, size: (usize, usize)) -> Self {
        match self {
            Self::Same(zero) => Self::Same(*zero),
            Self::Each(zeros, offset) => Self::Each(by_panel(zeros, size), *offset),
        }
    }

    /// Some of them as f32, at the start of `out`.
    pub(in crate::cpu) fn widen(&self, groups: Range<usize>, out: &mut [f32]) {
        let out = &mut out[..groups.len()];
        match self {
            Self::Same(zero) => out.fill(f32::from(*zero)),
            Self::Each(zeros, offset) => {
                for (out, zero) in out.iter_mut().zip(&zeros[groups]) {
                    *out = f32::from(u16::from(*zero) + u16::from(*offset));
                }
            }
        }
    }
}

/// Values of a matrix `[rows, groups]`, of [`PANEL`] rows at a time group by group. Missing rows of
/// the last panel get zeros.
fn by_panel<T: Copy + Default>(values: &[T], (rows, groups): (usize, usize)) -> Vec<T> {
    let mut out = vec![T::default(); rows.next_multiple_of(PANEL) * groups];
    for (row, values) in values.chunks_exact(groups.max(1)).enumerate() {
        let panel = &mut out[row / PANEL * PANEL * groups..];
        for (group, value) in values.iter().enumerate() {
            panel[PANEL * group + row % PANEL] = *value;
        }
    }
    out
}
