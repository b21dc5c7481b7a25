//! Converts text to ids and back, and keeps control tokens apart from text.
//!
//! Encoding recognises no added token in text from any source: neither control tokens nor those
//! that are not special (`<think>`, `<tool_call>`, `<|fim_prefix|>`), unlike transformers. They are
//! encoded as their characters. Decoding recognises them, and those that are not special appear in
//! the text.

mod file;
mod gguf;

use tokenizers::AddedToken;

use crate::config::Config;
use crate::quote::{quoted, shortened};
use file::TokenizerFile;
use qwen3_vl_core::prompt::Special;

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
/// Holds two copies: one decodes, with all added tokens; the other encodes and has none, so that no
/// text can become a control token. Control tokens are added to prompts by id only.
#[derive(Debug)]
pub struct Tokenizer {
    decoder: tokenizers::Tokenizer,
    encoder: tokenizers::Tokenizer,
    im_start: u32,
    im_end: u32,
    end_of_text: Option<u32>,
    vision_start: u32,
    vision_end: u32,
    /// The token with the largest id.
    last: (String, u32),
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::File`] or [`TokenizerError::Missing`].
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        Self::new(TokenizerFile::parse(json).map_err(TokenizerError::File)?)
    }

    fn new(file: TokenizerFile) -> Result<Self, TokenizerError> {
        let broken = |e: &dyn std::fmt::Display| TokenizerError::File(shortened(e));
        let encoder: tokenizers::Tokenizer =
            serde_json::from_value(file.tokenizer).map_err(|e| broken(&e))?;
        let mut decoder = encoder.clone();
        let tokens = file.added.iter();
        let tokens = tokens.map(|token| AddedToken::from(token.content.as_str(), token.special));
        decoder.add_tokens(tokens).map_err(|e| broken(&e))?;
        // `tokenizers` numbers added tokens itself, one after the other.
        let counted = |token: &&file::Added| decoder.token_to_id(&token.content) != Some(token.id);
        if let Some(token) = file.added.iter().find(counted) {
            return Err(TokenizerError::File(format!(
                "the id {} of the added token {} does not follow the one before it",
                token.id,
                quoted(&token.content)
            )));
        }
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
            last: file.last,
        })
    }

    /// Checks that every token has a row in the embedding table, and that the placeholders are
    /// those of the model.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::File`] names the token.
    pub fn check(&self, config: &Config) -> Result<(), TokenizerError> {
        let vocabulary = config.text_config.vocab_size;
        let (last, id) = &self.last;
        if *id as usize >= vocabulary {
            return Err(TokenizerError::File(format!(
                "token {} has the id {id}, beyond the vocabulary of config.json (vocab_size = \
                 {vocabulary})",
                quoted(last)
            )));
        }
        for (token, field, wanted) in [
            ("<|image_pad|>", "image_token_id", config.image_token_id),
            ("<|video_pad|>", "video_token_id", config.video_token_id),
        ] {
            if let Some(id) = self.decoder.token_to_id(token).filter(|id| *id != wanted) {
                return Err(TokenizerError::File(format!(
                    "token {token} has the id {id}, but {field} in config.json is {wanted}"
                )));
            }
        }
        Ok(())
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

    /// Text of ids, without control tokens.
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

    /// Ids that end an answer if the checkpoint does not name any.
    pub fn default_stop_tokens(&self) -> Vec<u32> {
        [Some(self.im_end), self.end_of_text]
            .into_iter()
            .flatten()
            .collect()
    }
}
