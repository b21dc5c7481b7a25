//! Types of ggml, and blocks of weights by a formula.

use half::f16;
use safetensors::Dtype;

use crate::formats::fill::{exponent, integers, scales};
use crate::formats::pack::encoded;

/// A type of ggml; the value is its number in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q4K = 12,
    Q5K = 13,
    Q6K = 14,
    Bf16 = 30,
}

/// How a block is laid out.
struct Layout {
    weights: usize,
    bytes: usize,
    /// Its integers are about `2^spread` large.
    spread: i32,
    /// Where its f16 scale lies.
    scale_at: usize,
    /// Where a second one for offsets lies, how many times (`2^n`) it is as large, and its sign:
    /// the offsets cancel the mean.
    offset: Option<(usize, i32, f32)>,
}

const fn layout(weights: usize, bytes: usize, spread: i32, scale_at: usize) -> Layout {
    Layout {
        weights,
        bytes,
        spread,
        scale_at,
        offset: None,
    }
}

impl Kind {
    /// As file names have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::Q8_0 => "Q8_0",
            _ => "F32",
        }
    }

    /// Numbers that are not in blocks.
    pub fn numbers(self, values: Vec<f32>) -> Vec<u8> {
        let dtype = match self {
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
            _ => Dtype::F32,
        };
        encoded(values, dtype)
    }

    fn layout(self) -> Layout {
        let offset = |at, more, sign| Some((at, more, sign));
        match self {
            Self::Q4_1 => Layout {
                offset: offset(2, 3, -1.0),
                ..layout(32, 20, 3, 0)
            },
            Self::Q5_0 => layout(32, 22, 4, 0),
            Self::Q5_1 => Layout {
                offset: offset(2, 4, -1.0),
                ..layout(32, 24, 4, 0)
            },
            Self::Q8_0 => layout(32, 34, 7, 0),
            Self::Q4K => Layout {
                offset: offset(2, 3, 1.0),
                ..layout(256, 144, 9, 0)
            },
            Self::Q5K => Layout {
                offset: offset(2, 4, 1.0),
                ..layout(256, 176, 10, 0)
            },
            Self::Q6K => layout(256, 210, 11, 208),
            _ => layout(32, 18, 3, 0),
        }
    }
}

/// A tensor `[…, rows, columns]` in blocks: random bytes but for their scales.
pub(super) fn by_formula(name: &str, shape: &[usize], kind: Kind, seed: u64) -> Vec<u8> {
    let layout = kind.layout();
    let count = shape.iter().product::<usize>() / layout.weights;
    let random = integers(&format!("{name}#b"), count * layout.bytes, seed, 256);
    let mut bytes: Vec<u8> = random.into_iter().map(|byte| byte as u8).collect();
    let mut put = |at: usize, part: &str, exponent: i32, sign: f32| {
        let halves = scales(&format!("{name}#{part}"), count, seed, exponent, 10);
        for (block, half) in bytes.chunks_exact_mut(layout.bytes).zip(halves) {
            block[at..at + 2].copy_from_slice(&f16::from_f32(sign * half).to_le_bytes());
        }
    };
    // An embedding is near 1.
    let columns = match name.starts_with("token_embd") {
        true => 1,
        false => shape[shape.len() - 1],
    };
    let exponent = exponent(columns, layout.spread);
    put(layout.scale_at, "s", exponent, 1.0);
    if let Some((at, more, sign)) = layout.offset {
        put(at, "m", exponent + more, sign);
    }
    bytes
}

/// Values rounded to 8 bits, as ggml's reference does it.
pub(super) fn q8_0(values: &[f32]) -> Vec<u8> {
    let block = |values: &[f32]| {
        let largest = values.iter().fold(0f32, |max, value| max.max(value.abs()));
        let scale = largest / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let codes = values
            .iter()
            .map(|value| (value * inverse).round() as i8 as u8);
        let scale = f16::from_f32(scale).to_le_bytes();
        scale.into_iter().chain(codes).collect::<Vec<u8>>()
    };
    values.chunks_exact(32).flat_map(block).collect()
}
