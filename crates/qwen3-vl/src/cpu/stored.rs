//! Matrices that are not dense, laid out as the products on a GPU read them (`kernels/stored.cuh`):
//! rows of bytes at a pitch that 16 divides, and what a format needs besides.

use std::borrow::Cow;

use candle_core::quantized::GgmlDType;
use half::{bf16, f16};

use super::blocks::BlockMatrix;
use super::fp8::{Fp8Matrix, blocks};

/// What 16-byte loads divide a row into, and columns that share what a piece needs.
const ALIGNED: usize = 16;
/// ggml's blocks of 32 values.
const RUN: usize = 32;

/// A format, by the name in its kernels' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredFormat {
    /// Numbers of the type that is multiplied.
    Dense,
    /// FP8 (E4M3) with f32 scales of blocks.
    Fp8,
    /// Integers of 4 bits in groups.
    Nibbles,
    /// Integers of 8 bits in groups.
    Bytes,
    /// ggml's `Q4_K`.
    Q4K,
    /// ggml's `Q5_K`.
    Q5K,
    /// ggml's `Q6_K`.
    Q6K,
}

impl StoredFormat {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Fp8 => "fp8",
            Self::Nibbles => "nibbles",
            Self::Bytes => "bytes",
            Self::Q4K => "q4k",
            Self::Q5K => "q5k",
            Self::Q6K => "q6k",
        }
    }
}

/// Scales, in the type that they are kept in.
#[derive(Clone, Debug)]
pub enum StoredScales<'a> {
    /// None, or within the values.
    None,
    /// Single precision.
    F32(Cow<'a, [f32]>),
    /// Half precision.
    F16(Cow<'a, [f16]>),
    /// bfloat16.
    BF16(Cow<'a, [bf16]>),
}

/// A matrix in that layout.
#[derive(Clone, Debug)]
pub struct StoredMatrix<'a> {
    /// How the values are stored.
    pub format: StoredFormat,
    /// Rows.
    pub rows: usize,
    /// Columns of the matrix.
    pub inputs: usize,
    /// Columns of what is stored, which 16 divides: those that `order` gives, then none.
    pub columns: usize,
    /// Which of `inputs` is at each place, more than there are if none; none if each is at its own.
    pub order: Option<Vec<u32>>,
    /// Bytes from row to row.
    pub pitch: usize,
    /// All rows.
    pub values: Cow<'a, [u8]>,
    /// Scales: FP8: `[lines, groups]`; integers: `[rows, groups]`.
    pub scales: StoredScales<'a>,
    /// Zero points `[rows, groups]`, to which `zero` is added; none if all are `zero`.
    pub zeros: Option<&'a [u8]>,
    /// FP8: the line of scales of each row; integers: the group of each 32 columns.
    pub index: Vec<u32>,
    /// Scales of a row.
    pub groups: usize,
    /// FP8: columns of a block.
    pub block: usize,
    /// The zero point, or what is added to each.
    pub zero: usize,
}

impl<'a> StoredMatrix<'a> {
    /// A matrix without scales beside its values, whose rows lie `pitch` bytes apart.
    pub fn new(
        format: StoredFormat,
        (rows, inputs): (usize, usize),
        (values, pitch): (Cow<'a, [u8]>, usize),
    ) -> Self {
        Self {
            format,
            rows,
            inputs,
            columns: inputs.next_multiple_of(ALIGNED),
            order: None,
            pitch,
            values,
            scales: StoredScales::None,
            zeros: None,
            index: Vec::new(),
            groups: 0,
            block: 0,
            zero: 0,
        }
    }
}

/// Rows of `row` bytes, with zeros behind each until 16 divides it.
pub(super) fn aligned(bytes: &[u8], row: usize) -> (Cow<'_, [u8]>, usize) {
    let pitch = row.next_multiple_of(ALIGNED);
    if pitch == row {
        return (Cow::Borrowed(bytes), pitch);
    }
    let mut out = vec![0; bytes.len() / row.max(1) * pitch];
    for (out, row) in out.chunks_exact_mut(pitch).zip(bytes.chunks_exact(row)) {
        out[..row.len()].copy_from_slice(row);
    }
    (Cow::Owned(out), pitch)
}

impl Fp8Matrix {
    /// It as a GPU reads it. None if 16 does not divide the columns of its blocks.
    pub fn stored(&self) -> Option<StoredMatrix<'_>> {
        let (bytes, block, scales) = self.parts();
        let (rows, columns) = self.dims();
        let (_, groups) = blocks((rows, columns), block);
        if groups > 1 && !block.1.is_multiple_of(ALIGNED) {
            return None;
        }
        let values = aligned(bytes, columns);
        Some(StoredMatrix {
            scales: StoredScales::F32(Cow::Borrowed(scales)),
            index: (0..rows).map(|row| (row / block.0) as u32).collect(),
            groups,
            block: block.1.next_multiple_of(ALIGNED),
            ..StoredMatrix::new(StoredFormat::Fp8, (rows, columns), values)
        })
    }
}

impl BlockMatrix {
    /// It as a GPU reads it. None if there are no kernels for its blocks.
    pub fn stored(&self) -> Option<StoredMatrix<'_>> {
        let (dims, blocks) = (self.dims(), self.blocks());
        let as_they_are = |format, bytes| {
            let pitch = dims.1 / 256 * bytes;
            StoredMatrix::new(format, dims, (Cow::Borrowed(blocks), pitch))
        };
        match self.dtype() {
            GgmlDType::Q4K => Some(as_they_are(StoredFormat::Q4K, 144)),
            GgmlDType::Q5K => Some(as_they_are(StoredFormat::Q5K, 176)),
            GgmlDType::Q6K => {
                let (blocks, bytes) = aligned(blocks, 210);
                let values = (blocks, dims.1 / 256 * bytes);
                Some(StoredMatrix::new(StoredFormat::Q6K, dims, values))
            }
            GgmlDType::Q8_0 => Some(runs(StoredFormat::Bytes, dims, blocks)),
            GgmlDType::Q4_0 => Some(runs(StoredFormat::Nibbles, dims, blocks)),
            _ => None,
        }
    }
}

/// Blocks of 32 values behind a scale in f16, `Q8_0` or `Q4_0`, as integers in groups of 32.
fn runs(
    format: StoredFormat,
    (rows, columns): (usize, usize),
    blocks: &[u8],
) -> StoredMatrix<'static> {
    let groups = columns / RUN;
    let nibbles = format == StoredFormat::Nibbles;
    let (bytes, zero) = if nibbles { (18, 8) } else { (34, 128) };
    let pitch = match nibbles {
        true => groups.next_multiple_of(2) * ALIGNED,
        false => columns,
    };
    let (mut values, mut scales) = (vec![0; rows * pitch], Vec::with_capacity(rows * groups));
    for (row, blocks) in blocks.chunks_exact((groups * bytes).max(1)).enumerate() {
        let row = &mut values[row * pitch..][..pitch];
        for (group, block) in blocks.chunks_exact(bytes).enumerate() {
            scales.push(f16::from_le_bytes([block[0], block[1]]));
            let quants = &block[2..];
            if nibbles {
                // Two blocks in 32 bytes: the first in their low halves.
                let out = &mut row[group / 2 * RUN..][..RUN];
                let of_block = |place: usize| quants[place % 16] >> (place / 16 * 4) & 15;
                for (place, out) in out.iter_mut().enumerate() {
                    *out |= of_block(place) << (group % 2 * 4);
                }
            } else {
                let out = &mut row[group * RUN..][..RUN];
                for (out, quant) in out.iter_mut().zip(quants) {
                    *out = quant ^ 0x80;
                }
            }
        }
    }
    StoredMatrix {
        scales: StoredScales::F16(Cow::Owned(scales)),
        index: (0..groups as u32).collect(),
        groups,
        zero,
        ..StoredMatrix::new(format, (rows, columns), (Cow::Owned(values), pitch))
    }
}
