//! How each format stores a matrix, from the formats' definitions.

use half::{bf16, f16};
use safetensors::Dtype;

use super::fill::Matrix;

/// How linear layers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// 8-bit floats: a scale of this type and name for each block of 128 by 128, or for each row.
    Float8 {
        block: bool,
        scale: &'static str,
        dtype: Dtype,
    },
    /// AWQ, version "gemm": 4 bits in groups of 128.
    Awq,
    /// GPTQ. No group is the whole column.
    Gptq {
        bits: u32,
        group: Option<usize>,
        symmetric: bool,
        by_activation: bool,
        /// Of the format: 1 stores zero points less one.
        version: u32,
    },
    /// compressed-tensors, `pack-quantized`. No group is the whole row.
    Packed {
        bits: u32,
        group: Option<usize>,
        symmetric: bool,
    },
    /// Blocks of ggml, in another kind of file.
    Gguf,
}

/// A tensor of a matrix: the last part of its name, and what it holds.
pub(super) struct Part {
    pub name: &'static str,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Side of a block of 8-bit floats.
pub(super) const BLOCK: usize = 128;
/// Group of AWQ.
pub(super) const AWQ_GROUP: usize = 128;
/// Which of eight columns lies in which nibble of AWQ's words.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

impl Method {
    pub fn pack(self, matrix: &Matrix<'_>) -> Vec<Part> {
        match self {
            Self::Float8 {
                block,
                scale,
                dtype,
            } => float8(matrix, block, scale, dtype),
            Self::Awq => awq(matrix),
            Self::Gptq {
                bits,
                group,
                symmetric,
                by_activation,
                version,
            } => {
                let group = group.unwrap_or(matrix.columns);
                let index = match by_activation {
                    true => matrix.group_index(group),
                    false => (0..matrix.columns).map(|column| column / group).collect(),
                };
                let zeros = (!symmetric).then_some(2 - version);
                gptq(matrix, bits, group, zeros, &index, version == 1)
            }
            Self::Packed {
                bits,
                group,
                symmetric,
            } => packed(matrix, bits, group.unwrap_or(matrix.columns), symmetric),
            Self::Gguf => Vec::new(),
        }
    }
}

fn float8(matrix: &Matrix<'_>, block: bool, scale: &'static str, dtype: Dtype) -> Vec<Part> {
    let (rows, columns) = (matrix.rows, matrix.columns);
    let grid = match block {
        true => [rows.div_ceil(BLOCK), columns.div_ceil(BLOCK)],
        false => [rows, 1],
    };
    let scales = matrix.scales(grid[0] * grid[1], 7, digits(dtype));
    vec![
        part("weight", Dtype::F8_E4M3, &[rows, columns], matrix.floats()),
        part(scale, dtype, &grid, encoded(scales, dtype)),
    ]
}

fn awq(matrix: &Matrix<'_>) -> Vec<Part> {
    let (rows, columns) = (matrix.rows, matrix.columns);
    let groups = columns / AWQ_GROUP;
    let codes = matrix.codes(4);
    let zeros = matrix.zero_points(rows * groups, 0, 4);
    let scales = matrix.scales(rows * groups, 3, digits(Dtype::F16));
    let words = rows / 8;
    let row = |word, nibble: usize| 8 * word + AWQ_ORDER[nibble];
    vec![
        words_of("qweight", [columns, words], 4, |column, word, nibble| {
            codes[row(word, nibble) * columns + column]
        }),
        words_of("qzeros", [groups, words], 4, |group, word, nibble| {
            zeros[row(word, nibble) * groups + group]
        }),
        transposed_scales(&scales, rows, groups),
    ]
}

/// `first_zero`: the least zero point, if they are not all in the middle.
fn gptq(
    matrix: &Matrix<'_>,
    bits: u32,
    group: usize,
    first_zero: Option<u32>,
    index: &[usize],
    less_one: bool,
) -> Vec<Part> {
    let (rows, columns) = (matrix.rows, matrix.columns);
    let (groups, in_word) = (columns / group, 32 / bits as usize);
    let codes = matrix.codes(bits);
    let scales = matrix.scales(rows * groups, spread(bits), digits(Dtype::F16));
    let zeros = match first_zero {
        Some(first) => matrix.zero_points(rows * groups, first, bits),
        None => vec![1 << (bits - 1); rows * groups],
    };
    let words =
        |name, shape, code: &dyn Fn(usize, usize, usize) -> u32| words_of(name, shape, bits, code);
    let index = index.iter().flat_map(|group| (*group as i32).to_le_bytes());
    vec![
        words("qweight", [columns / in_word, rows], &|word, row, i| {
            codes[row * columns + word * in_word + i]
        }),
        words("qzeros", [groups, rows / in_word], &|group, word, i| {
            zeros[(word * in_word + i) * groups + group] - u32::from(less_one)
        }),
        transposed_scales(&scales, rows, groups),
        part("g_idx", Dtype::I32, &[columns], index.collect()),
    ]
}

fn packed(matrix: &Matrix<'_>, bits: u32, group: usize, symmetric: bool) -> Vec<Part> {
    let (rows, columns) = (matrix.rows, matrix.columns);
    let (groups, in_word) = (columns / group, 32 / bits as usize);
    let codes = matrix.codes(bits);
    let scales = matrix.scales(rows * groups, spread(bits), digits(Dtype::BF16));
    let shape = [rows, columns].map(|n| (n as i64).to_le_bytes());
    let mut parts = vec![
        words_of(
            "weight_packed",
            [rows, columns / in_word],
            bits,
            |row, word, i| codes[row * columns + word * in_word + i],
        ),
        part(
            "weight_scale",
            Dtype::BF16,
            &[rows, groups],
            encoded(scales, Dtype::BF16),
        ),
        part("weight_shape", Dtype::I64, &[2], shape.concat()),
    ];
    if !symmetric {
        // Zero points are packed along the rows.
        let zeros = matrix.zero_points(rows * groups, 0, bits);
        parts.push(words_of(
            "weight_zero_point",
            [rows / in_word, groups],
            bits,
            |word, group, i| zeros[(word * in_word + i) * groups + group],
        ));
    }
    parts
}

/// The spread of integers, see [`Matrix::scales`].
fn spread(bits: u32) -> i32 {
    bits as i32 - 1
}

/// Words `[shape[0], shape[1]]`, each of integers from the lowest bits up: of the word at these two
/// indices, the one at the third.
fn words_of(
    name: &'static str,
    shape: [usize; 2],
    bits: u32,
    code: impl Fn(usize, usize, usize) -> u32,
) -> Part {
    let word = |a, b| {
        let codes = (0..32 / bits).map(|i| code(a, b, i as usize) << (bits * i));
        codes.fold(0, |word, code| word | code)
    };
    let words = (0..shape[0]).flat_map(|a| (0..shape[1]).map(move |b| (a, b)));
    let bytes = words.flat_map(|(a, b)| u32::to_le_bytes(word(a, b)));
    part(name, Dtype::I32, &shape, bytes.collect())
}

/// Scales `[rows, groups]` as f16 `[groups, rows]`.
fn transposed_scales(scales: &[f32], rows: usize, groups: usize) -> Part {
    let places = (0..groups).flat_map(|group| (0..rows).map(move |row| row * groups + group));
    let scales = places.map(|place| scales[place]).collect();
    part(
        "scales",
        Dtype::F16,
        &[groups, rows],
        encoded(scales, Dtype::F16),
    )
}

fn part(name: &'static str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Part {
    Part {
        name,
        dtype,
        shape: shape.to_vec(),
        bytes,
    }
}

/// Binary digits behind the point of a normal number.
fn digits(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F16 => 10,
        Dtype::BF16 => 7,
        _ => 23,
    }
}

/// Numbers in a type of 16 or 32 bits, rounded to the nearest.
pub(super) fn encoded(values: Vec<f32>, dtype: Dtype) -> Vec<u8> {
    let values = values.into_iter();
    match dtype {
        Dtype::F16 => values
            .flat_map(|v| f16::from_f32(v).to_le_bytes())
            .collect(),
        Dtype::BF16 => values
            .flat_map(|v| bf16::from_f32(v).to_le_bytes())
            .collect(),
        _ => values.flat_map(f32::to_le_bytes).collect(),
    }
}
