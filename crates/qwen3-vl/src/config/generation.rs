//! `generation_config.json`.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{ConfigError, object};
use crate::quote::value;

const FILE: &str = "generation_config.json";

/// How the checkpoint's authors decode (transformers: `GenerationConfig`). Every field may be
/// absent.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct GenerationConfig {
    /// False means greedy.
    pub do_sample: Option<bool>,
    /// Temperature, 0 or more.
    pub temperature: Option<f64>,
    /// Nucleus, 0 or more; 1 and more keep all tokens.
    pub top_p: Option<f64>,
    /// Most likely tokens kept.
    pub top_k: Option<u32>,
    /// Repetition penalty, more than 0.
    pub repetition_penalty: Option<f64>,
    /// Presence penalty (not a field that transformers knows; other engines write it).
    pub presence_penalty: Option<f64>,
    /// Ids that end an answer: a number, a list or `null` in the file.
    #[serde(default, deserialize_with = "one_or_many")]
    pub eos_token_id: Vec<u32>,
}

impl GenerationConfig {
    /// Reads `generation_config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the field that cannot be used.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let file = Value::Object(object(FILE, json)?);
        let config: Self = serde_json::from_value(file)
            .map_err(|source| ConfigError::Json { file: FILE, source })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let limits = [
            ("temperature", self.temperature, 0.0, 1e3),
            ("top_p", self.top_p, 0.0, f64::MAX),
            ("repetition_penalty", self.repetition_penalty, 1e-3, 1e3),
            ("presence_penalty", self.presence_penalty, -1e3, 1e3),
        ];
        for (name, said, least, most) in limits {
            if let Some(said) = said.filter(|said| !(least..=most).contains(said)) {
                return Err(ConfigError::Unsupported {
                    file: FILE,
                    reason: format!("{name} = {said} is out of range"),
                });
            }
        }
        Ok(())
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let said = Value::deserialize(deserializer)?;
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match &said {
        Value::Null => Some(Vec::new()),
        Value::Array(ids) => ids.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    };
    ids.ok_or_else(|| {
        let text = format!(
            "eos_token_id is {}, not a token id or a list of them",
            value(&said)
        );
        serde::de::Error::custom(text)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_or_many_or_none() {
        let ids = |json: &str| GenerationConfig::from_json(json.as_bytes()).map(|c| c.eos_token_id);
        assert!(ids("{}").unwrap().is_empty());
        assert!(ids(r#"{"eos_token_id": null}"#).unwrap().is_empty());
        assert_eq!(ids(r#"{"eos_token_id": 7}"#).unwrap(), [7]);
        assert_eq!(ids(r#"{"eos_token_id": [7, 8]}"#).unwrap(), [7, 8]);
        for bad in ["-1", "4294967296", "1.5", "\"7\"", "[[7]]", "[7, null]"] {
            let error = ids(&format!(r#"{{"eos_token_id": {bad}}}"#))
                .unwrap_err()
                .to_string();
            assert!(error.contains("eos_token_id is "), "{bad}: {error}");
        }
    }

    #[test]
    fn values_that_no_sampler_can_use_are_refused() {
        for (field, bad) in [
            ("temperature", "-0.5"),
            ("temperature", "1e300"),
            ("top_p", "-1"),
            ("repetition_penalty", "0"),
            ("repetition_penalty", "-1"),
            ("repetition_penalty", "1e4"),
            ("presence_penalty", "1e300"),
        ] {
            let json = format!(r#"{{"{field}": {bad}}}"#);
            let error = GenerationConfig::from_json(json.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(field) && error.contains("out of range"),
                "{error}"
            );
        }
    }
}
