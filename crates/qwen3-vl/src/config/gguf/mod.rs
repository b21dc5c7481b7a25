//! What the files of a checkpoint say, out of the keys of GGUF files (written by llama.cpp's
//! `conversion/qwen3vl.py`). The JSON that the keys stand for is made and read, so that the same
//! checks hold.

mod generation;
mod processors;
mod text;
mod vision;

use serde_json::{Value, json};

use super::{Config, ConfigError, GenerationConfig, ProcessorFiles, Processors, VisionConfig};
use crate::weights::gguf::{GgufError, GgufModel, Metadata};

impl Config {
    /// The `config.json` that GGUF files stand for.
    ///
    /// # Errors
    ///
    /// [`GgufError`] names the key that is missing, contradicts another or cannot be used.
    pub fn from_gguf(model: &GgufModel) -> Result<Self, GgufError> {
        let (text, vision) = (text::config(model)?, vision::config(model)?);
        agree(model, &text, &vision)?;
        let tokens = tokens(model.text())?;
        let id = |token: &str| {
            let missing = || {
                let reason = format!("tokenizer.ggml.tokens has no {token}");
                model.text().error(reason)
            };
            position(&tokens, token).ok_or_else(missing)
        };
        let config = json!({
            "model_type": match text::has_experts(model)? {
                true => "qwen3_vl_moe",
                false => "qwen3_vl",
            },
            "image_token_id": id("<|image_pad|>")?,
            "video_token_id": id("<|video_pad|>")?,
            "vision_start_token_id": id("<|vision_start|>")?,
            "vision_end_token_id": id("<|vision_end|>")?,
            "tie_word_embeddings": model.text_tensor("output.weight").is_none(),
            "text_config": text,
            "vision_config": vision,
        });
        Self::from_json(&bytes(&config)).map_err(|error| unfit(model.text(), &error))
    }
}

impl GenerationConfig {
    /// The `generation_config.json` that GGUF files stand for.
    ///
    /// # Errors
    ///
    /// [`GgufError`] names the key that cannot be used.
    pub fn from_gguf(model: &GgufModel) -> Result<Self, GgufError> {
        let config = generation::config(model.text())?;
        Self::from_json(&bytes(&config)).map_err(|error| unfit(model.text(), &error))
    }
}

impl Processors {
    /// The preprocessor configurations that GGUF files stand for.
    ///
    /// # Errors
    ///
    /// [`GgufError`] names the key that cannot be used.
    pub fn from_gguf(model: &GgufModel, vision: &VisionConfig) -> Result<Self, GgufError> {
        let [image, video] = processors::configs(model.vision())?.map(|config| bytes(&config));
        let files = ProcessorFiles {
            processor: None,
            image: Some(&image),
            video: Some(&video),
        };
        Self::from_files(files, vision).map_err(|error| unfit(model.vision(), &error))
    }
}

fn bytes(json: &Value) -> Vec<u8> {
    json.to_string().into_bytes()
}

/// What the checks of the JSON files find in keys.
fn unfit(metadata: &Metadata, error: &ConfigError) -> GgufError {
    metadata.error(format!("its keys cannot be used, written as {error}"))
}

/// That both files are of one model.
fn agree(model: &GgufModel, text: &Value, vision: &Value) -> Result<(), GgufError> {
    let towers = vision["deepstack_visual_indexes"].as_array().map(Vec::len);
    let taps = model
        .text()
        .integer(&text::key(model, "n_deepstack_layers")?)?;
    for (name, of_text, of_vision) in [
        (
            "the width of vision tokens",
            text["hidden_size"].as_u64(),
            vision["out_hidden_size"].as_u64(),
        ),
        (
            "DeepStack layers",
            taps,
            towers
                .map(|towers| towers as u64)
                .filter(|_| taps.is_some()),
        ),
    ] {
        if of_text != of_vision {
            let [ours, theirs] = [of_text, of_vision].map(Option::unwrap_or_default);
            return Err(model.vision().error(format!(
                "it is of another model than {}: {name} {theirs}, not {ours}",
                model.text().file()
            )));
        }
    }
    Ok(())
}

/// The texts of all tokens.
fn tokens(metadata: &Metadata) -> Result<Vec<&str>, GgufError> {
    let tokens = metadata.texts("tokenizer.ggml.tokens")?;
    tokens.ok_or_else(|| metadata.error("it has no vocabulary (tokenizer.ggml.tokens)"))
}

/// The id of a token.
fn position(tokens: &[&str], token: &str) -> Option<usize> {
    tokens.iter().position(|text| *text == token)
}

/// A number as it was written in decimals before it became an f32: 0.7, not 0.699999988.
fn decimal(number: f64) -> f64 {
    let narrow = number as f32;
    let written = narrow.to_string().parse();
    match f64::from(narrow) == number {
        true => written.unwrap_or(number),
        false => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_was_written() {
        for number in [0.7, 1e-6, 0.95, 5e6, 0.0, -1.5, 1e-30, 1e30] {
            assert_eq!(decimal(f64::from(number as f32)), number);
        }
        // An f64 is one already.
        assert_eq!(decimal(0.1), 0.1);
        assert_eq!(decimal(1e300), 1e300);
        assert!(decimal(f64::NAN).is_nan());
    }
}
