//! How a checkpoint's weights were quantised: what `quantization_config` says beyond the tensors.
//!
//! The tensors that a layer has decide whether it is quantised, and how (see
//! [`LinearMethod`](crate::model::linear::LinearMethod)). What they do not tell stands here: sizes
//! of groups and blocks, and the version of a packing. Lists of layers in the configuration
//! (`modules_to_not_convert`, `ignore`, `targets`, `dynamic`) are not consulted: each tool matches
//! them by another rule.

mod compressed_tensors;
mod settings;

use std::fmt;

use serde_json::{Map, Value};

use super::{ConfigError, FILE, object};
use settings::Settings;

/// How the weights of a checkpoint were quantised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// FP8 (E4M3): one scale for each block (transformers: `FineGrainedFP8Config`;
    /// compressed-tensors: `float-quantized`).
    Fp8 {
        /// Rows and columns of a block that a layer may have. A scale for each row or for the
        /// whole matrix is known by its shape.
        blocks: Vec<(usize, usize)>,
    },
    /// AutoAWQ's version `gemm`, 4 bits.
    Awq(Groups),
    /// GPTQ.
    Gptq {
        /// What is added to a stored zero point: 1 in format `gptq`, which stores one less, and 0
        /// in `gptq_v2`.
        zero_offset: u8,
        /// What a layer may have: the rule first, then what `dynamic` sets for some layers.
        groups: Vec<Groups>,
    },
    /// compressed-tensors, format `pack-quantized`.
    CompressedTensors {
        /// What a layer may have, by `config_groups`.
        groups: Vec<Groups>,
    },
}

/// Integers that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Width of an integer.
    pub bits: Bits,
    /// Columns of a group; none if a row is one.
    pub size: Option<usize>,
}

/// Width of a quantised weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// 0 to 15.
    Four,
    /// 0 to 255.
    Eight,
}

impl Bits {
    /// The number.
    pub fn count(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// Integers in a word of 32 bits.
    pub fn per_word(self) -> usize {
        32 / self.count()
    }
}

impl Groups {
    /// Groups in a row of that many columns; the last one may be smaller.
    pub fn in_row(self, columns: usize) -> usize {
        columns.div_ceil(self.size.unwrap_or(columns).max(1))
    }
}

impl Quantization {
    /// What `quantization_config` (or `compression_config`) of `config.json`, or of its
    /// `text_config`, says; none if there is none.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unsupported`] names what is not supported.
    pub(super) fn of(file: &Map<String, Value>) -> Result<Option<Self>, ConfigError> {
        let nested = file.get("text_config").and_then(Value::as_object);
        for part in [Some(file), nested].into_iter().flatten() {
            for name in ["quantization_config", "compression_config"] {
                if let Some(settings) = part.get(name).filter(|value| !value.is_null()) {
                    return Settings::new(FILE, name, settings)?
                        .quantization()
                        .map(Some);
                }
            }
        }
        Ok(None)
    }

    /// What the older `quantize_config.json` beside `config.json` says.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], as for `config.json`.
    pub fn from_quantize_config(json: &[u8]) -> Result<Self, ConfigError> {
        const NAME: &str = "quantize_config.json";
        let mut settings = object(NAME, json)?;
        // AutoGPTQ's own file does not name the method.
        let method = settings.entry("quant_method").or_insert("gptq".into());
        if method.is_null() {
            *method = "gptq".into();
        }
        Settings::new(NAME, "it", &Value::Object(settings))?.quantization()
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, groups) = match self {
            Self::Fp8 { .. } => return f.write_str("fp8"),
            Self::Awq(groups) => ("awq", Some(groups)),
            Self::Gptq { groups, .. } => ("gptq", groups.first()),
            Self::CompressedTensors { groups } => ("compressed-tensors", groups.first()),
        };
        match groups {
            Some(groups) => write!(f, "{name} {}-bit", groups.bits.count()),
            None => f.write_str(name),
        }
    }
}
