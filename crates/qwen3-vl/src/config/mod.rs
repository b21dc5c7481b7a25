//! Reads the JSON files of a checkpoint in Hugging Face's format, with the defaults of transformers
//! 5.17.

mod generation;
mod gguf;
mod kind;
mod preprocessor;
mod rope;
mod text;
mod vision;

use serde::Deserialize;
use serde_json::{Map, Value, json};

pub use generation::GenerationConfig;
pub use preprocessor::{PixelRange, PreprocessorConfig, ProcessorFiles, Processors};
pub use rope::Rope;
pub use text::TextConfig;
pub use vision::VisionConfig;

use crate::quote::{json_error, quoted, value};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or a field is of the wrong type.
    #[error("{file}: {}", json_error(source))]
    Json {
        /// Name of the file.
        file: &'static str,
        /// What serde found.
        source: serde_json::Error,
    },
    /// A value that this implementation, or the architecture, does not allow.
    #[error("{file}: {reason}")]
    Unsupported {
        /// Name of the file.
        file: &'static str,
        /// The value, and what is allowed.
        reason: String,
    },
}

const FILE: &str = "config.json";

/// `config.json` of `Qwen3VLForConditionalGeneration` (transformers: `Qwen3VLConfig`).
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// `qwen3_vl` or `qwen3_vl_moe`.
    pub model_type: String,
    /// Placeholder of an image's vision tokens.
    pub image_token_id: u32,
    /// Placeholder of a video's vision tokens.
    pub video_token_id: u32,
    /// Opens a run of vision tokens.
    pub vision_start_token_id: u32,
    /// Closes a run of vision tokens.
    pub vision_end_token_id: u32,
    /// Whether the output head is the embedding table.
    pub tie_word_embeddings: bool,
    /// The language model.
    pub text_config: TextConfig,
    /// The vision tower.
    pub vision_config: VisionConfig,
}

impl Config {
    /// Reads and checks `config.json`. Absent fields have transformers' defaults.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the field that cannot be used, or the model that is not a Qwen3-VL.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let mut file = object(FILE, json)?;
        let kind = kind::of(&file)?;
        let part = |file: &mut Map<String, Value>, name: &str| match file.remove(name) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(part)) => Ok(part),
            Some(other) => unsupported(format!("{name} is {}, not an object", value(&other))),
        };
        let text = part(&mut file, "text_config")?;
        let vision = part(&mut file, "vision_config")?;
        file.insert("text_config".into(), text::complete(text, kind)?);
        file.insert("vision_config".into(), vision::complete(vision)?);
        let file = merged(defaults(), file);
        let config: Self = serde_json::from_value(file)
            .map_err(|source| ConfigError::Json { file: FILE, source })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let (text, vision) = (&self.text_config, &self.vision_config);
        text.check()?;
        vision.check()?;
        ensure(vision.out_hidden_size == text.hidden_size, || {
            "vision out_hidden_size differs from the text hidden_size".into()
        })?;
        let taps = &vision.deepstack_visual_indexes;
        ensure(taps.len() <= text.num_hidden_layers, || {
            "deepstack_visual_indexes has more entries than num_hidden_layers".into()
        })?;
        let ids = [
            ("image_token_id", self.image_token_id),
            ("video_token_id", self.video_token_id),
            ("vision_start_token_id", self.vision_start_token_id),
            ("vision_end_token_id", self.vision_end_token_id),
        ];
        for (name, id) in ids {
            let vocabulary = text.vocab_size;
            ensure((id as usize) < vocabulary, || {
                format!("{name} = {id} is beyond the vocabulary (vocab_size = {vocabulary})")
            })?;
        }
        ensure(self.image_token_id != self.video_token_id, || {
            format!(
                "image_token_id and video_token_id are both {}",
                self.image_token_id
            )
        })
    }

    /// Checks that there are no experts, which are not supported yet.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unsupported`].
    pub fn ensure_dense(&self) -> Result<(), ConfigError> {
        ensure(self.text_config.num_experts == 0, || {
            "mixture-of-experts models cannot be loaded yet: use a dense one".into()
        })
    }
}

/// transformers: the fields of `Qwen3VLConfig`.
fn defaults() -> Value {
    json!({
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "tie_word_embeddings": false,
    })
}

/// Parses a file that holds one JSON object.
fn object(file: &'static str, json: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    let parsed =
        serde_json::from_slice(json).map_err(|source| ConfigError::Json { file, source })?;
    match parsed {
        Value::Object(object) => Ok(object),
        other => Err(ConfigError::Unsupported {
            file,
            reason: format!("it holds {}, not an object", value(&other)),
        }),
    }
}

/// A file's fields over the defaults. A `null` overrides a default, as in Python.
fn merged(defaults: Value, said: Map<String, Value>) -> Value {
    match defaults {
        Value::Object(mut all) => {
            all.extend(said);
            Value::Object(all)
        }
        _ => Value::Object(said),
    }
}

fn unsupported<T>(reason: String) -> Result<T, ConfigError> {
    Err(ConfigError::Unsupported { file: FILE, reason })
}

fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Result<(), ConfigError> {
    match holds {
        true => Ok(()),
        false => unsupported(reason()),
    }
}

/// Checks that each size can be the length of an axis.
fn ensure_sizes(sizes: &[(&str, usize)]) -> Result<(), ConfigError> {
    sizes.iter().try_for_each(|(name, size)| {
        ensure((1..1 << 24).contains(size), || {
            format!("{name} = {size} is out of range")
        })
    })
}

/// Checks that the product can be the length of an axis.
fn ensure_product(what: &str, factors: &[usize]) -> Result<(), ConfigError> {
    let product = factors.iter().try_fold(1usize, |product, factor| {
        product.checked_mul(*factor).filter(|p| *p < 1 << 31)
    });
    ensure(product.is_some(), || {
        format!("{what} = {factors:?} multiplied is out of range")
    })
}

/// Checks that an activation is the one that the kernels compute.
fn ensure_activation(part: &str, found: &str, supported: &str) -> Result<(), ConfigError> {
    ensure(found == supported, || {
        let found = quoted(found);
        format!("{part} hidden_act {found} is not supported ({supported} is)")
    })
}
