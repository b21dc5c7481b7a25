//! Formats to which weights are quantized at load, whatever type they are stored in.

use std::str::FromStr;

use crate::choice::UnknownChoice;
use crate::cpu::fp8::Fp8Matrix;
use crate::cpu::quantized::Format;

/// The format to which the language model's linear layers are quantized. Norms, embeddings and the
/// vision tower keep the type that `dtype` gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum QuantizeAtLoad {
    /// No quantization: every weight has the type that `dtype` gives.
    #[default]
    None,
    /// 8 bits, ggml's `Q8_0`: 34 bytes for 32 weights.
    Q8_0,
    /// 4 bits, ggml's `Q4_K`: 144 bytes for 256 weights.
    Q4K,
    /// 8 bits, FP8 (E4M3) with a scale for each block of 128 by 128, as transformers rounds.
    Fp8,
}

/// What a layer is rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// ggml's blocks.
    Ggml(Format),
    /// FP8 in blocks.
    Fp8,
}

impl Rounding {
    /// Bytes of a matrix.
    pub(crate) fn bytes(self, (rows, columns): (usize, usize)) -> usize {
        match self {
            Self::Ggml(format) => format.bytes(rows.saturating_mul(columns)),
            Self::Fp8 => Fp8Matrix::bytes_of((rows, columns)),
        }
    }
}

impl QuantizeAtLoad {
    /// All that round, the most exact first.
    pub const ALL: [Self; 3] = [Self::Q8_0, Self::Fp8, Self::Q4K];

    /// Its name, as [`FromStr`] parses it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Q8_0 => "q8-0",
            Self::Q4K => "q4-k",
            Self::Fp8 => "fp8",
        }
    }

    /// What a layer of this input width is rounded to. ggml's blocks lie within a row: if the width
    /// is no multiple of 256, `Q4_K` falls back to `Q8_0`, and if it is no multiple of 32, the
    /// weights are not quantized.
    pub(crate) fn rounding(self, width: usize) -> Option<Rounding> {
        let wanted: &[Format] = match self {
            Self::None => &[],
            Self::Fp8 => return Some(Rounding::Fp8),
            Self::Q8_0 => &[Format::Q8_0],
            Self::Q4K => &[Format::Q4K, Format::Q8_0],
        };
        let fits = |format: &&Format| width.is_multiple_of(format.block());
        wanted.iter().find(fits).copied().map(Rounding::Ggml)
    }
}

impl FromStr for QuantizeAtLoad {
    type Err = UnknownChoice;

    /// Parses `none`, `q8-0`, `q4-k` or `fp8`.
    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        [Self::None]
            .into_iter()
            .chain(Self::ALL)
            .find(|choice| choice.as_str() == name)
            .ok_or_else(|| UnknownChoice {
                what: "quantization",
                name: name.into(),
                choices: "none, q8-0, q4-k or fp8",
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_without_whole_blocks_fall_back() {
        let q8_0 = Some(Rounding::Ggml(Format::Q8_0));
        let q4_k = Some(Rounding::Ggml(Format::Q4K));
        assert_eq!(QuantizeAtLoad::Q4K.rounding(512), q4_k);
        assert_eq!(QuantizeAtLoad::Q4K.rounding(384), q8_0);
        assert_eq!(QuantizeAtLoad::Q8_0.rounding(2048), q8_0);
        assert_eq!(QuantizeAtLoad::Q8_0.rounding(48), None);
        assert_eq!(QuantizeAtLoad::Q4K.rounding(48), None);
        assert_eq!(QuantizeAtLoad::Fp8.rounding(48), Some(Rounding::Fp8));
        assert_eq!(QuantizeAtLoad::None.rounding(2048), None);
    }

    #[test]
    fn names_are_parsed() {
        for choice in [QuantizeAtLoad::None]
            .into_iter()
            .chain(QuantizeAtLoad::ALL)
        {
            assert_eq!(choice.as_str().parse(), Ok(choice));
        }
        assert!("q5".parse::<QuantizeAtLoad>().is_err());
    }
}
