//! Scales of integers. Weight = scale * integer - least, with one scale and one least value for a
//! row's run, or for half of it.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;

use super::layout::PANEL;
use crate::cpu::packed::{Scales as OfGroups, Zeros};

/// Runs whose scales are widened at a time: they stay in a core's first-level cache.
pub const STRETCH: usize = 16;
/// Parts of these runs.
const PARTS: usize = 2 * STRETCH;
/// Runs in a block of ggml's K types, which share a scale of their scales.
const IN_BLOCK: usize = 8;

/// Scales as they are kept. All are in the order of panels, in these of columns, in these of rows.
pub enum Scales {
    /// Of groups of runs, with zero points: `least = scale * zero`.
    Groups {
        scales: OfGroups,
        zeros: Zeros,
        /// The group of each run, which never falls; if there is none, each run is a group.
        runs: Vec<u32>,
        /// Groups of a row.
        count: usize,
    },
    /// Of each run; least values likewise.
    Runs { scales: Vec<f16>, leasts: Vec<f16> },
    /// Numbers of 6 bits of each run, times one of a block; least values likewise.
    Blocks {
        scales: Vec<f16>,
        leasts: Vec<f16>,
        of_runs: Vec<u8>,
        least_of_runs: Vec<u8>,
    },
    /// Signed numbers of 8 bits of each half of a run, times one of a block; `least = 32 scale`.
    Halves {
        scales: Vec<f16>,
        of_halves: Vec<i8>,
    },
}

/// The scales of some runs of a panel, in f32.
pub struct Widened {
    pub scales: [[f32; PANEL]; PARTS],
    pub leasts: [[f32; PANEL]; PARTS],
    /// Which of them are those of a part.
    pub places: [u8; PARTS],
}

impl Widened {
    pub fn new() -> Self {
        Self {
            scales: [[0.0; PANEL]; PARTS],
            leasts: [[0.0; PANEL]; PARTS],
            places: std::array::from_fn(|part| part as u8),
        }
    }
}

impl Scales {
    /// Memory that they take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Groups {
                scales,
                zeros,
                runs,
                ..
            } => scales.bytes() + zeros.bytes() + size_of_val(runs.as_slice()),
            Self::Runs { scales, leasts } => {
                size_of_val(scales.as_slice()) + size_of_val(leasts.as_slice())
            }
            Self::Blocks {
                scales,
                leasts,
                of_runs,
                least_of_runs,
            } => {
                let halves = scales.len() + leasts.len();
                halves * size_of::<f16>() + of_runs.len() + least_of_runs.len()
            }
            Self::Halves { scales, of_halves } => size_of_val(scales.as_slice()) + of_halves.len(),
        }
    }

    /// Widens those of at most [`STRETCH`] runs of a panel; a row has `width` runs. A stretch does
    /// not begin inside of a block.
    pub fn widen(&self, panel: usize, runs: Range<usize>, width: usize, out: &mut Widened) {
        let first = panel * width + runs.start;
        match self {
            Self::Groups {
                scales,
                zeros,
                runs: groups,
                count,
            } => {
                let of_runs = groups.get(runs.clone());
                let of_runs = of_runs.filter(|of_runs| !of_runs.is_empty());
                let of_group = match of_runs {
                    None => runs.clone(),
                    Some(of_runs) => {
                        let start = of_runs[0];
                        for (place, group) in out.places.iter_mut().zip(of_runs) {
                            *place = (group - start) as u8;
                        }
                        start as usize..of_runs[of_runs.len() - 1] as usize + 1
                    }
                };
                let all = panel * count + of_group.start..panel * count + of_group.end;
                let all = PANEL * all.start..PANEL * all.end;
                scales.widen(all.clone(), out.scales.as_flattened_mut());
                zeros.widen(all.clone(), out.leasts.as_flattened_mut());
                let scales = &out.scales.as_flattened()[..all.len()];
                multiply(&mut out.leasts.as_flattened_mut()[..all.len()], scales);
            }
            Self::Runs { scales, leasts } => {
                let all = PANEL * first..PANEL * (first + runs.len());
                let [to_scales, to_leasts] = [&mut out.scales, &mut out.leasts]
                    .map(|to| &mut to.as_flattened_mut()[..all.len()]);
                scales[all.clone()].convert_to_f32_slice(to_scales);
                leasts[all].convert_to_f32_slice(to_leasts);
            }
            Self::Blocks {
                scales,
                leasts,
                of_runs,
                least_of_runs,
            } => {
                let scales = OfBlocks::new(scales, first, runs.len());
                let leasts = OfBlocks::new(leasts, first, runs.len());
                let all = first..first + runs.len();
                let [of_runs, of_leasts] =
                    [of_runs, least_of_runs].map(|of| &of.as_chunks().0[all.clone()]);
                times_blocks(of_runs, &scales.0, &mut out.scales);
                times_blocks(of_leasts, &leasts.0, &mut out.leasts);
            }
            Self::Halves { scales, of_halves } => {
                let scales = OfBlocks::new(scales, first, runs.len());
                let of_halves = of_halves.as_chunks().0;
                let of_halves = &of_halves[2 * first..2 * (first + runs.len())];
                times_halves(of_halves, &scales.0, &mut out.scales, &mut out.leasts);
            }
        }
    }
}

/// The scales of a stretch's blocks.
struct OfBlocks([[f32; PANEL]; STRETCH / IN_BLOCK]);

impl OfBlocks {
    fn new(scales: &[f16], first_run: usize, runs: usize) -> Self {
        let mut out = [[0.0; PANEL]; STRETCH / IN_BLOCK];
        let (first, count) = (first_run / IN_BLOCK, runs.div_ceil(IN_BLOCK));
        let some = &scales[PANEL * first..PANEL * (first + count)];
        some.convert_to_f32_slice(&mut out.as_flattened_mut()[..some.len()]);
        Self(out)
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn multiply(values: &mut [f32], factors: &[f32]) {
    for (value, factor) in values.iter_mut().zip(factors) {
        *value *= factor;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn times_blocks(numbers: &[[u8; PANEL]], scales: &[[f32; PANEL]], out: &mut [[f32; PANEL]]) {
    let blocks = numbers.chunks(IN_BLOCK).zip(scales);
    for ((numbers, scales), out) in blocks.zip(out.chunks_mut(IN_BLOCK)) {
        for (numbers, out) in numbers.iter().zip(out) {
            for row in 0..PANEL {
                out[row] = scales[row] * f32::from(numbers[row]);
            }
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn times_halves(
    numbers: &[[i8; PANEL]],
    scales: &[[f32; PANEL]],
    out: &mut [[f32; PANEL]],
    leasts: &mut [[f32; PANEL]],
) {
    let blocks = numbers.chunks(2 * IN_BLOCK).zip(scales);
    let out = out
        .chunks_mut(2 * IN_BLOCK)
        .zip(leasts.chunks_mut(2 * IN_BLOCK));
    for ((numbers, scales), (out, leasts)) in blocks.zip(out) {
        for ((numbers, out), leasts) in numbers.iter().zip(out).zip(leasts) {
            for row in 0..PANEL {
                out[row] = scales[row] * f32::from(numbers[row]);
                leasts[row] = 32.0 * out[row];
            }
        }
    }
}
