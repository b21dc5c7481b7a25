//! Matrices of ggml's blocks, which are taken apart while they are read. The types of fewer than 4
//! bits are not known here: their scales would take as long as their products.

use std::ops::Range;

use candle_core::quantized::GgmlDType;
use half::f16;
use rayon::prelude::*;

use super::Int8Matrix;
use super::input::RUN;
use super::layout::{Bits, PANEL};
use super::scales::Scales;
use crate::cpu::blocks::scale_min;
use crate::cpu::packed::{Scales as OfGroups, Zeros};

/// Panels that are in memory twice while they are taken apart.
const TOGETHER: usize = 32;

/// How the blocks of a type lie (ggml-common.h).
struct Layout {
    bits: Bits,
    /// Where the scale and the least value of all weights are.
    scale: usize,
    least: Option<usize>,
    kind: Kind,
}

/// What their scales are.
#[derive(Clone, Copy)]
enum Kind {
    /// One for 32 weights, and a zero point.
    Zero(u16),
    /// One for 32 weights, and a value to which weights are added.
    Added,
    /// One for 256 weights, and six bits for each 32.
    SixBits,
    /// One for 256 weights, and eight bits for each 16.
    EightBits,
}

impl Layout {
    fn of(dtype: GgmlDType) -> Option<Self> {
        let layout = |bits, scale, least, kind| {
            Some(Self {
                bits,
                scale,
                least,
                kind,
            })
        };
        match dtype {
            GgmlDType::Q4_0 => layout(Bits::Four, 0, None, Kind::Zero(8)),
            GgmlDType::Q4_1 => layout(Bits::Four, 0, Some(2), Kind::Added),
            GgmlDType::Q5_0 => layout(Bits::Five, 0, None, Kind::Zero(16)),
            GgmlDType::Q5_1 => layout(Bits::Five, 0, Some(2), Kind::Added),
            GgmlDType::Q8_0 => layout(Bits::Eight, 0, None, Kind::Zero(128)),
            GgmlDType::Q4K => layout(Bits::Four, 0, Some(2), Kind::SixBits),
            GgmlDType::Q5K => layout(Bits::Five, 0, Some(2), Kind::SixBits),
            GgmlDType::Q6K => layout(Bits::Six, 208, None, Kind::EightBits),
            _ => None,
        }
    }
}

/// Whether there are products of integers for blocks of that type.
pub fn is_known(dtype: GgmlDType) -> bool {
    Layout::of(dtype).is_some()
}

/// The integers of a run of a block, which has 1 or 8 of them.
fn integers(dtype: GgmlDType, block: &[u8], run: usize) -> [u8; RUN] {
    // The upper half of a block's, or of a run's, values are in the high halves of bytes.
    let nibble = |bytes: &[u8], i: usize| bytes[i % 16] >> (i / 16 * 4) & 15;
    let bit = |bytes: &[u8], i: usize| bytes[i / 8] >> (i % 8) & 1;
    let of_pair = |bytes: &[u8], i: usize| bytes[32 * (run / 2) + i] >> (run % 2 * 4) & 15;
    match dtype {
        GgmlDType::Q4_0 => std::array::from_fn(|i| nibble(&block[2..], i)),
        GgmlDType::Q4_1 => std::array::from_fn(|i| nibble(&block[4..], i)),
        GgmlDType::Q5_0 => {
            std::array::from_fn(|i| nibble(&block[6..], i) | bit(&block[2..], i) << 4)
        }
        GgmlDType::Q5_1 => {
            std::array::from_fn(|i| nibble(&block[8..], i) | bit(&block[4..], i) << 4)
        }
        GgmlDType::Q8_0 => std::array::from_fn(|i| block[2 + i] ^ 0x80),
        GgmlDType::Q4K => std::array::from_fn(|i| of_pair(&block[16..], i)),
        GgmlDType::Q5K => {
            let fifth = |i: usize| block[16 + i] >> run & 1;
            std::array::from_fn(|i| of_pair(&block[48..], i) | fifth(i) << 4)
        }
        GgmlDType::Q6K => {
            let (half, quarter) = (run / 4, run % 4);
            let low = &block[64 * half + 32 * (quarter % 2)..][..RUN];
            let high = &block[128 + 32 * half..][..RUN];
            std::array::from_fn(|i| {
                low[i] >> (quarter / 2 * 4) & 15 | (high[i] >> (2 * quarter) & 3) << 4
            })
        }
        _ => [0; RUN],
    }
}

/// How many of each the [`Parts`] of a matrix are.
struct Counts {
    quants: usize,
    scales: usize,
    leasts: usize,
    numbers: usize,
    least_numbers: usize,
}

impl Counts {
    /// None if there cannot be so many.
    fn new(layout: &Layout, (rows, columns): (usize, usize)) -> Option<Self> {
        let (panels, runs) = (rows.div_ceil(PANEL), columns / RUN);
        let (blocks, numbers, least_numbers) = match layout.kind {
            Kind::Zero(_) | Kind::Added => (runs, 0, 0),
            Kind::SixBits => (runs / 8, runs, runs),
            Kind::EightBits => (runs / 8, 2 * runs, 0),
        };
        let all = |of_row: usize| panels.checked_mul(PANEL)?.checked_mul(of_row);
        Some(Self {
            quants: panels.checked_mul(runs.checked_mul(layout.bits.of_run())?)?,
            scales: all(blocks)?,
            leasts: all(layout.least.map_or(0, |_| blocks))?,
            numbers: all(numbers)?,
            least_numbers: all(least_numbers)?,
        })
    }

    fn bytes(&self) -> usize {
        let halves = self.scales.saturating_add(self.leasts).saturating_mul(2);
        let numbers = self.numbers.saturating_add(self.least_numbers);
        self.quants.saturating_add(halves).saturating_add(numbers)
    }
}

/// Parts of some panels.
#[derive(Default)]
struct Parts {
    quants: Vec<u8>,
    scales: Vec<f16>,
    leasts: Vec<f16>,
    /// Of each run or half of one.
    numbers: Vec<u8>,
    least_numbers: Vec<u8>,
}

impl Parts {
    /// Room for all of a matrix; none if there is no memory.
    fn with_room(counts: &Counts) -> Option<Self> {
        let mut parts = Self::default();
        parts.quants.try_reserve_exact(counts.quants).ok()?;
        parts.scales.try_reserve_exact(counts.scales).ok()?;
        parts.leasts.try_reserve_exact(counts.leasts).ok()?;
        parts.numbers.try_reserve_exact(counts.numbers).ok()?;
        let least_numbers = counts.least_numbers;
        parts.least_numbers.try_reserve_exact(least_numbers).ok()?;
        Some(parts)
    }

    /// Takes a panel apart: up to sixteen rows of blocks.
    fn of_panel(dtype: GgmlDType, layout: &Layout, rows: &[&[u8]]) -> Self {
        let mut parts = Self::default();
        let bytes = dtype.type_size();
        let blocks = rows.first().map_or(0, |row| row.len() / bytes);
        let runs = dtype.block_size() / RUN;
        parts.quants.resize(blocks * runs * layout.bits.of_run(), 0);
        let mut quants = parts.quants.chunks_exact_mut(layout.bits.of_run());
        for block in 0..blocks {
            let of = |row: usize| rows.get(row).map(|row| &row[block * bytes..][..bytes]);
            let half =
                |at: usize| move |block: &[u8]| f16::from_le_bytes([block[at], block[at + 1]]);
            for row in 0..PANEL {
                let scale = of(row).map_or(f16::ZERO, half(layout.scale));
                parts.scales.push(scale);
                if let Some(at) = layout.least {
                    let least = of(row).map_or(f16::ZERO, half(at));
                    // Here it is what is taken away.
                    let added = matches!(layout.kind, Kind::Added);
                    parts.leasts.push(if added { -least } else { least });
                }
            }
            for (run, quants) in quants.by_ref().take(runs).enumerate() {
                let integers = std::array::from_fn(|row| {
                    of(row).map_or([0; RUN], |block| integers(dtype, block, run))
                });
                layout.bits.pack(&integers, quants);
                let numbers = 0..PANEL;
                match layout.kind {
                    Kind::Zero(_) | Kind::Added => {}
                    Kind::SixBits => {
                        let all = numbers.map(|row| {
                            of(row).map_or((0, 0), |block| scale_min(&block[4..16], run))
                        });
                        for (scale, least) in all {
                            parts.numbers.push(scale);
                            parts.least_numbers.push(least);
                        }
                    }
                    Kind::EightBits => {
                        for half in 0..2 {
                            let number = |block: &[u8]| block[192 + 2 * run + half];
                            let all = numbers.clone().map(|row| of(row).map_or(0, number));
                            parts.numbers.extend(all);
                        }
                    }
                }
            }
        }
        parts
    }

    fn append(&mut self, other: &Self) {
        self.quants.extend_from_slice(&other.quants);
        self.scales.extend_from_slice(&other.scales);
        self.leasts.extend_from_slice(&other.leasts);
        self.numbers.extend_from_slice(&other.numbers);
        self.least_numbers.extend_from_slice(&other.least_numbers);
    }

    fn scales(self, kind: Kind, runs: usize) -> (Vec<u8>, Scales) {
        let Self {
            quants,
            scales,
            leasts,
            numbers,
            least_numbers,
        } = self;
        let scales = match kind {
            Kind::Zero(zero) => Scales::Groups {
                scales: OfGroups::F16(scales),
                zeros: Zeros::Same(zero),
                runs: Vec::new(),
                count: runs,
            },
            Kind::Added => Scales::Runs { scales, leasts },
            Kind::SixBits => Scales::Blocks {
                scales,
                leasts,
                of_runs: numbers,
                least_of_runs: least_numbers,
            },
            Kind::EightBits => Scales::Halves {
                scales,
                of_halves: numbers.into_iter().map(|number| number as i8).collect(),
            },
        };
        (quants, scales)
    }
}

impl Int8Matrix {
    /// Memory that a matrix of blocks takes; none if the type is not [known](is_known).
    pub fn size(dtype: GgmlDType, dims: (usize, usize)) -> Option<usize> {
        let counts = Counts::new(&Layout::of(dtype)?, dims)?;
        Some(counts.bytes())
    }

    /// A matrix `[rows, columns]` of blocks of a type that [is known](is_known); `read` gives those
    /// of some rows, one behind the other. None if the type is not, its blocks do not divide a row,
    /// or there is no memory.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    pub fn of_blocks<E: Send>(
        dtype: GgmlDType,
        (rows, columns): (usize, usize),
        read: impl Fn(Range<usize>) -> Result<Vec<u8>, E> + Sync,
    ) -> Result<Option<Self>, E> {
        let whole = columns.is_multiple_of(dtype.block_size());
        let Some(layout) = Layout::of(dtype).filter(|_| whole) else {
            return Ok(None);
        };
        let (panels, runs) = (rows.div_ceil(PANEL), columns / RUN);
        let counts = Counts::new(&layout, (rows, columns));
        let Some(mut all) = counts.and_then(|counts| Parts::with_room(&counts)) else {
            return Ok(None);
        };
        let of_row = columns / dtype.block_size() * dtype.type_size();
        for first in (0..panels).step_by(TOGETHER) {
            let some = (first..panels.min(first + TOGETHER)).into_par_iter();
            let some = some.map(|panel| {
                let blocks = read(panel * PANEL..rows.min((panel + 1) * PANEL))?;
                let rows: Vec<&[u8]> = blocks.chunks_exact(of_row.max(1)).collect();
                Ok(Parts::of_panel(dtype, &layout, &rows))
            });
            for parts in some.collect::<Result<Vec<_>, E>>()? {
                all.append(&parts);
            }
        }
        let (quants, scales) = all.scales(layout.kind, runs);
        Ok(Some(Self {
            rows,
            columns,
            bits: layout.bits,
            quants,
            scales,
        }))
    }
}
