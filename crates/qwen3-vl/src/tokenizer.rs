//! Text to ids and back, with the control tokens kept apart from text.

use crate::prompt::Special;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// `tokenizer.json` is broken.
    #[error("tokenizer.json: {0}")]
    File(String),
    /// The vocabulary lacks a control token that every Qwen3-VL has.
    #[error("tokenizer.json has no token {0}")]
    Missing(&'static str),
    /// Encoding or decoding failed.
    #[error("tokenizer: {0}")]
    Use(String),
}

/// A checkpoint's tokenizer.
///
/// Two copies: one decodes, with all added tokens; the other encodes and has none, so that no text,
/// whatever it contains, can become a control token. Control tokens go in by id only.
#[derive(Debug)]
pub struct Tokenizer {
    decoder: tokenizers::Tokenizer,
    encoder: tokenizers::Tokenizer,
    im_start: u32,
    im_end: u32,
    end_of_text: Option<u32>,
    vision_start: u32,
    vision_end: u32,
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::File`] or [`TokenizerError::Missing`].
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let file = |e: &dyn std::fmt::Display| TokenizerError::File(e.to_string());
        let mut tree: serde_json::Value = serde_json::from_slice(json).map_err(|e| file(&e))?;
        let decoder = tokenizers::Tokenizer::from_bytes(json).map_err(|e| file(&e))?;
        tree["added_tokens"] = serde_json::Value::Array(Vec::new());
        // A post-processor may name added tokens; a prompt is laid out here, so none is needed.
        tree["post_processor"] = serde_json::Value::Null;
        let encoder = serde_json::from_value(tree).map_err(|e| file(&e))?;
        let id = |name| {
            decoder
                .token_to_id(name)
                .ok_or(TokenizerError::Missing(name))
        };
        Ok(Self {
            im_start: id("<|im_start|>")?,
            im_end: id("<|im_end|>")?,
            end_of_text: decoder.token_to_id("<|endoftext|>"),
            vision_start: id("<|vision_start|>")?,
            vision_end: id("<|vision_end|>")?,
            decoder,
            encoder,
        })
    }

    /// Ids of a text; none of them is a control token.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Use`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self
            .encoder
            .encode(text, false)
            .map_err(|e| TokenizerError::Use(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of ids, control tokens left out.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Use`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.decoder
            .decode(ids, true)
            .map_err(|e| TokenizerError::Use(e.to_string()))
    }

    /// Id of a control token.
    pub fn special(&self, special: Special) -> u32 {
        match special {
            Special::ImStart => self.im_start,
            Special::ImEnd => self.im_end,
            Special::VisionStart => self.vision_start,
            Special::VisionEnd => self.vision_end,
        }
    }

    /// Ids that end an answer where the checkpoint does not name any.
    pub fn default_stop_tokens(&self) -> Vec<u32> {
        [Some(self.im_end), self.end_of_text]
            .into_iter()
            .flatten()
            .collect()
    }
}
