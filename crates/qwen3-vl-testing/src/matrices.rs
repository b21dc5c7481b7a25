//! Random matrices of every format that is multiplied on a GPU, with their products on the CPU.

use std::iter::zip;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor};
use half::{bf16, f16};

use crate::weights::hash_fill;
use qwen3_vl::cpu::blocks::{BlockFormat, BlockMatrix};
use qwen3_vl::cpu::fp8::{Fp8Matrix, blocks};
use qwen3_vl::cpu::packed::{Columns, PackedMatrix, Scales, Zeros};
use qwen3_vl::cpu::stored::StoredMatrix;

/// A matrix that is not dense, on the CPU.
#[derive(Debug)]
pub enum Matrix {
    /// FP8.
    Fp8(Fp8Matrix),
    /// Integers in groups.
    Packed(PackedMatrix),
    /// ggml's blocks.
    Blocks(BlockMatrix),
}

impl Matrix {
    /// It as a GPU reads it; none if it cannot.
    pub fn stored(&self) -> Option<StoredMatrix<'_>> {
        match self {
            Self::Fp8(matrix) => matrix.stored(),
            Self::Packed(matrix) => Some(matrix.stored()),
            Self::Blocks(matrix) => matrix.stored(),
        }
    }

    /// `x[m, columns] Wᵀ` in f32.
    pub fn product(&self, x: &[f32], m: usize) -> Vec<f32> {
        let out = |rows| vec![0.0; m * rows];
        match self {
            Self::Fp8(matrix) => {
                let mut out = out(matrix.dims().0);
                matrix.matmul_t_into(x, m, &mut out);
                out
            }
            Self::Packed(matrix) => {
                let mut out = out(matrix.dims().0);
                matrix.matmul_t_into(x, m, &mut out);
                out
            }
            Self::Blocks(matrix) => {
                let mut out = out(matrix.dims().0);
                matrix.matmul_t_into(x, m, &mut out);
                out
            }
        }
    }
}

/// A name, and how it makes a matrix of a size from a seed.
type Make = fn((usize, usize), u64) -> Result<Matrix>;

/// Every format, whether its columns have to be a multiple of 256, and how to make a matrix.
pub const FORMATS: [(&str, bool, Make); 14] = [
    ("fp8 in blocks", false, |dims, seed| {
        Ok(fp8(dims, (128, 128), seed))
    }),
    ("fp8 in small blocks", false, |dims, seed| {
        Ok(fp8(dims, (24, 32), seed))
    }),
    ("fp8 by row", false, |dims, seed| {
        Ok(fp8(dims, (1, dims.1), seed))
    }),
    ("4 bits, f16, groups of 128", false, |dims, seed| {
        packed(dims, (128, false), (1, true), seed)
    }),
    ("4 bits, bf16, groups of 32", false, |dims, seed| {
        packed(dims, (32, false), (2, false), seed)
    }),
    ("4 bits, f32, any groups", false, |dims, seed| {
        packed(dims, (0, false), (0, false), seed)
    }),
    ("8 bits, f16, groups of 64", false, |dims, seed| {
        packed(dims, (64, true), (1, false), seed)
    }),
    ("8 bits, bf16, any groups", false, |dims, seed| {
        packed(dims, (0, true), (2, true), seed)
    }),
    ("4 bits, f16, by row", false, |dims, seed| {
        packed(dims, (dims.1, false), (1, true), seed)
    }),
    ("q8_0", true, |dims, seed| {
        in_blocks(dims, GgmlDType::Q8_0, seed)
    }),
    ("q4_0", true, |dims, seed| {
        in_blocks(dims, GgmlDType::Q4_0, seed)
    }),
    ("q4_k", true, |dims, seed| {
        in_blocks(dims, GgmlDType::Q4K, seed)
    }),
    ("q5_k", true, |dims, seed| {
        in_blocks(dims, GgmlDType::Q5K, seed)
    }),
    ("q6_k", true, |dims, seed| {
        in_blocks(dims, GgmlDType::Q6K, seed)
    }),
];

/// A matrix in FP8 with blocks of this size.
pub fn fp8(dims: (usize, usize), block: (usize, usize), seed: u64) -> Matrix {
    let mut bytes = random_bytes(dims.0 * dims.1, seed);
    // All bits but the sign's are no number.
    for byte in &mut bytes {
        *byte ^= u8::from(*byte & 0x7f == 0x7f);
    }
    let (down, across) = blocks(dims, block);
    let scales = random_scales(down * across, seed);
    Matrix::Fp8(Fp8Matrix::new(dims, bytes, block, scales))
}

/// A matrix of integers in groups of `size` columns (0: in any), `wide` ones of 8 bits. The scales
/// are f32, f16 or bf16 (0 to 2); zero points are all the same or one for each group.
///
/// # Errors
///
/// If there is no memory.
pub fn packed(
    (rows, columns): (usize, usize),
    (size, wide): (usize, bool),
    (scale_type, same): (u8, bool),
    seed: u64,
) -> Result<Matrix> {
    let columns = match size {
        0 => {
            let groups = random_bytes(columns, seed + 1).into_iter();
            Columns::by_index(&groups.map(|byte| usize::from(byte % 5)).collect::<Vec<_>>())
        }
        size => Columns::in_sequence(columns, size),
    };
    let count = rows * columns.groups().len();
    let scales = random_scales(count, seed);
    let scales = match scale_type {
        0 => Scales::F32(scales),
        1 => Scales::F16(scales.into_iter().map(f16::from_f32).collect()),
        _ => Scales::BF16(scales.into_iter().map(bf16::from_f32).collect()),
    };
    let (most, middle) = if wide { (255, 128) } else { (15, 8) };
    let zeros = match same {
        true => Zeros::new(vec![middle; count], 0),
        false => {
            let each = random_bytes(count, seed + 2).into_iter();
            Zeros::new(each.map(|byte| byte & most).collect(), 1)
        }
    };
    let width = columns.count();
    let integers = random_bytes(rows * width, seed + 3);
    let fill = |some: std::ops::Range<usize>, out: &mut [u8]| {
        for (out, byte) in zip(out, &integers[some.start * width..some.end * width]) {
            *out = byte & most;
        }
    };
    let matrix = PackedMatrix::new(rows, columns, wide, (scales, zeros), fill);
    matrix
        .map(Matrix::Packed)
        .ok_or_else(|| candle_core::Error::msg("no memory"))
}

/// A matrix in ggml's blocks, as candle rounds to them.
///
/// # Errors
///
/// If the blocks do not divide a row.
pub fn in_blocks(dims: (usize, usize), dtype: GgmlDType, seed: u64) -> Result<Matrix> {
    let values = hash_fill("blocks", &[dims.0 * dims.1], seed);
    let values = Tensor::from_vec(values, dims, &Device::Cpu)?;
    let blocks = QTensor::quantize(&values, dtype)?.data()?.into_owned();
    let format = BlockFormat::of(dtype);
    let matrix = format.and_then(|format| BlockMatrix::new(format, dims, blocks));
    let matrix = matrix.ok_or_else(|| candle_core::Error::msg("blocks of another size"))?;
    Ok(Matrix::Blocks(matrix))
}

/// Scales from 0.01 to 0.03.
fn random_scales(count: usize, seed: u64) -> Vec<f32> {
    let values = hash_fill("scales", &[count], seed).into_iter();
    values.map(|value| 0.02 + 0.1 * value).collect()
}

/// Bytes by splitmix64.
fn random_bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    (0..count).map(|_| next() as u8).collect()
}
