//! `generation_config.json`.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{ConfigError, object};
use crate::quote::value;

const FILE: &str = "generation_config.json";

/// The checkpoint's generation defaults (transformers: `GenerationConfig`). Every field may be
/// absent.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct GenerationConfig {
    /// False means greedy.
    pub do_sample: Option<bool>,
    /// Temperature, 0 or more.
    pub temperature: Option<f64>,
    /// Top-p (nucleus), 0 or more; 1 and more keep all tokens.
    pub top_p: Option<f64>,
    /// Most likely tokens kept.
    pub top_k: Option<u32>,
    /// Repetition penalty, more than 0.
    pub repetition_penalty: Option<f64>,
    /// Presence penalty (not a field of transformers; other engines write it).
    pub presence_penalty: Option<f64>,
    /// Ids that end an answer: a number, a list or `null` in the file.
    #[serde(default, deserialize_with = "one_or_many")]
    pub eos_token_id: Vec<u32>,
    /// Names of settings that would change answers in transformers and are not applied here.
    #[serde(skip)]
    pub not_applied: Vec<&'static str>,
}

/// Unsupported settings of transformers' `generate`, each with its neutral value; NaN if it has
/// none.
const OTHERS: [(&str, f64); 14] = [
    ("num_beams", 1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("guidance_scale", 1.0),
    ("bad_words_ids", f64::NAN),
    ("suppress_tokens", f64::NAN),
    ("begin_suppress_tokens", f64::NAN),
    ("sequence_bias", f64::NAN),
    ("forced_eos_token_id", f64::NAN),
    ("exponential_decay_length_penalty", f64::NAN),
    ("stop_strings", f64::NAN),
];

/// The same for settings that only apply to sampling.
const OTHERS_OF_SAMPLING: [(&str, f64); 5] = [
    ("min_p", 0.0),
    ("typical_p", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("top_h", f64::NAN),
];

impl GenerationConfig {
    /// Reads `generation_config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the field that cannot be used.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let file = object(FILE, json)?;
        let others = not_applied(&file);
        let mut config: Self = serde_json::from_value(Value::Object(file))
            .map_err(|source| ConfigError::Json { file: FILE, source })?;
        config.check()?;
        config.not_applied = others;
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

fn not_applied(file: &Map<String, Value>) -> Vec<&'static str> {
    let greedy = file.get("do_sample") == Some(&Value::Bool(false));
    let of_sampling = match greedy {
        true => &[][..],
        false => &OTHERS_OF_SAMPLING,
    };
    let changes = |(name, nothing): &&(&str, f64)| match file.get(*name) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(all)) => !all.is_empty(),
        Some(Value::Object(all)) => !all.is_empty(),
        Some(said) => said.as_f64() != Some(*nothing),
    };
    let found = OTHERS.iter().chain(of_sampling).filter(changes);
    found.map(|(name, _)| *name).collect()
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

    /// Follows `_get_logits_processor` of transformers.
    #[test]
    fn settings_that_are_not_applied_are_named() {
        let named = |json: &str| {
            let config = GenerationConfig::from_json(json.as_bytes()).unwrap();
            config.not_applied.join(" ")
        };
        assert_eq!(
            named(r#"{"min_p": 0.1, "num_beams": 4}"#),
            "num_beams min_p"
        );
        assert_eq!(
            named(r#"{"suppress_tokens": [5], "typical_p": 0.9, "stop_strings": "x"}"#),
            "suppress_tokens stop_strings typical_p"
        );
        assert_eq!(named(r#"{"do_sample": false, "min_p": 0.1}"#), "");
        assert_eq!(
            named(r#"{"do_sample": false, "no_repeat_ngram_size": 3}"#),
            "no_repeat_ngram_size"
        );
        // Neutral values, and settings that do not affect tokens.
        let nothing = r#"{"min_p": 0, "typical_p": 1.0, "num_beams": 1, "suppress_tokens": [],
            "sequence_bias": {}, "bad_words_ids": null, "guidance_scale": 1, "use_cache": true,
            "max_length": 20, "min_length": 0, "output_scores": true, "num_return_sequences": 2}"#;
        assert_eq!(named(nothing), "");
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
