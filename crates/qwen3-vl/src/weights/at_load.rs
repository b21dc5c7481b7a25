//! Formats to which weights are quantized at load, whatever type they are stored in.

use std::str::FromStr;

use crate::choice::UnknownChoice;
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
}

impl QuantizeAtLoad {
    /// Its name, as [`FromStr`] parses it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Q8_0 => "q8-0",
            Self::Q4K => "q4-k",
        }
    }

    /// The format of a layer of this input width. Blocks lie within a row: if the width is no
    /// multiple of 256, `Q4_K` falls back to `Q8_0`, and if it is no multiple of 32, the weights
    /// are not quantized.
    pub(crate) fn format(self, width: usize) -> Option<Format> {
        let wanted: &[Format] = match self {
            Self::None => &[],
            Self::Q8_0 => &[Format::Q8_0],
            Self::Q4K => &[Format::Q4K, Format::Q8_0],
        };
        let fits = |format: &&Format| width.is_multiple_of(format.block());
        wanted.iter().find(fits).copied()
    }
}

impl FromStr for QuantizeAtLoad {
    type Err = UnknownChoice;

    /// Parses `none`, `q8-0` or `q4-k`.
    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        [Self::None, Self::Q8_0, Self::Q4K]
            .into_iter()
            .find(|choice| choice.as_str() == name)
            .ok_or_else(|| UnknownChoice {
                what: "quantization",
                name: name.into(),
                choices: "none, q8-0 or q4-k",
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_without_whole_blocks_fall_back() {
        assert_eq!(QuantizeAtLoad::Q4K.format(512), Some(Format::Q4K));
        assert_eq!(QuantizeAtLoad::Q4K.format(384), Some(Format::Q8_0));
        assert_eq!(QuantizeAtLoad::Q8_0.format(2048), Some(Format::Q8_0));
        assert_eq!(QuantizeAtLoad::Q8_0.format(48), None);
        assert_eq!(QuantizeAtLoad::Q4K.format(48), None);
        assert_eq!(QuantizeAtLoad::None.format(2048), None);
    }

    #[test]
    fn names_are_parsed() {
        for choice in [
            QuantizeAtLoad::None,
            QuantizeAtLoad::Q8_0,
            QuantizeAtLoad::Q4K,
        ] {
            assert_eq!(choice.as_str().parse(), Ok(choice));
        }
        assert!("q5".parse::<QuantizeAtLoad>().is_err());
    }
}
