//! RoPE settings, whose fields have other names in released checkpoints than in transformers 5.

use serde_json::{Map, Value, json};

use super::{ConfigError, ensure, unsupported};
use crate::quote::value;

/// Interleaved M-RoPE.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Frequencies of the time, height and width axes; their sum is `head_dim / 2`.
    pub section: [usize; 3],
}

/// The settings of a text or vision configuration, with their base (transformers:
/// `RotaryEmbeddingConfigMixin`). `rope_scaling`, the older name, wins unless it is empty. If the
/// settings lack the base, it is the field beside them, else `default_theta`.
fn settings(
    part: &Map<String, Value>,
    default_theta: f64,
) -> Result<Map<String, Value>, ConfigError> {
    let mut settings = Map::new();
    for name in ["rope_scaling", "rope_parameters"] {
        match part.get(name) {
            None | Some(Value::Null) => (),
            Some(Value::Object(said)) if said.is_empty() => (),
            Some(Value::Object(said)) => {
                settings.clone_from(said);
                break;
            }
            Some(other) => {
                return unsupported(format!("{name} is {}, not an object", value(other)));
            }
        }
    }
    if !settings.contains_key("rope_theta") {
        let beside = part.get("rope_theta").cloned();
        settings.insert("rope_theta".into(), beside.unwrap_or(json!(default_theta)));
    }
    Ok(settings)
}

/// Checks that the type of RoPE, under either field name, is one of `supported`.
fn ensure_type(
    part: &str,
    settings: &Map<String, Value>,
    supported: &[&str],
) -> Result<(), ConfigError> {
    let named = settings.get("rope_type").or_else(|| settings.get("type"));
    let fits = named.is_none_or(|named| named.as_str().is_some_and(|n| supported.contains(&n)));
    ensure(fits, || {
        let named = named.map_or(String::new(), value);
        format!(
            "{part} rope_type {named} is not supported ({} is)",
            supported[0]
        )
    })
}

/// The base; its powers, also times a position, must be finite in f32.
fn theta(part: &str, settings: &Map<String, Value>) -> Result<f64, ConfigError> {
    let said = settings.get("rope_theta");
    let theta = said.and_then(Value::as_f64).unwrap_or(f64::NAN);
    ensure((theta as f32).is_finite() && theta >= 1e-30, || {
        let said = said.map_or(String::new(), value);
        format!("{part} rope_theta = {said} is not a number of at least 1e-30")
    })?;
    Ok(theta)
}

/// Settings of the language model (transformers: `Qwen3VLTextRotaryEmbedding`).
pub(super) fn text(part: &Map<String, Value>) -> Result<Value, ConfigError> {
    let settings = settings(part, 500_000.0)?;
    ensure_type("text", &settings, &["default"])?;
    ensure(
        settings.get("mrope_interleaved") != Some(&Value::Bool(false)),
        || "mrope_interleaved = false is not supported".into(),
    )?;
    let section = settings.get("mrope_section").cloned();
    let section = section.unwrap_or_else(|| json!([24, 20, 20]));
    let lengths: Option<Vec<u64>> = section
        .as_array()
        .filter(|lengths| lengths.len() == 3)
        .and_then(|lengths| lengths.iter().map(Value::as_u64).collect());
    ensure(lengths.is_some(), || {
        format!("mrope_section is {}, not three numbers", value(&section))
    })?;
    Ok(json!({"theta": theta("text", &settings)?, "section": section}))
}

/// The base of the vision tower's frequencies (transformers: `Qwen3VLVisionRotaryEmbedding`).
pub(super) fn vision_theta(part: &Map<String, Value>) -> Result<f64, ConfigError> {
    let settings = settings(part, 10_000.0)?;
    // transformers turns "default" into "axial".
    ensure_type("vision", &settings, &["axial", "default"])?;
    theta("vision", &settings)
}

impl Rope {
    /// Checks that every frequency has an axis.
    pub(super) fn check(&self, head_dim: usize) -> Result<(), ConfigError> {
        let [time, height, width] = self.section;
        let sum = time
            .checked_add(height)
            .and_then(|sum| sum.checked_add(width));
        ensure(
            sum.and_then(|sum| sum.checked_mul(2)) == Some(head_dim),
            || {
                format!(
                    "mrope_section {:?} does not sum to head_dim / 2",
                    self.section
                )
            },
        )
    }
}
