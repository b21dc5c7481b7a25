//! The `tokenizer.json` that a GGUF file stands for (llama.cpp: `get_vocab_base`, `SpecialVocab`).

use serde_json::{Map, Value, json};

use super::file::{TokenizerFile, byte_level, qwen_pre_tokenizer};
use super::{Tokenizer, TokenizerError};
use crate::quote::quoted;
use crate::weights::gguf::{GgufError, GgufModel, Metadata};

/// Kinds of tokens (llama.cpp: `llama_token_type`).
const NORMAL: u64 = 1;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;

/// Tokens that are not special in Qwen's tokenizer. The converter calls every `<|…|>` a control
/// token.
const NOT_SPECIAL: [&str; 6] = [
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

impl Tokenizer {
    /// The tokenizer in the metadata of a language model.
    ///
    /// # Errors
    ///
    /// [`GgufError`] says what is missing or not one of Qwen's.
    pub fn from_gguf(model: &GgufModel) -> Result<Self, GgufError> {
        let metadata = model.text();
        let file = TokenizerFile::check(json(metadata)?).map_err(TokenizerError::File);
        file.and_then(Self::new)
            .map_err(|error| error.of_gguf(metadata))
    }
}

impl TokenizerError {
    /// The error of a tokenizer that is in that file.
    pub(crate) fn of_gguf(self, metadata: &Metadata) -> GgufError {
        let reason = match self {
            Self::File(reason) | Self::Use(reason) => reason,
            Self::Missing(token) => format!("it has no token {token}"),
        };
        metadata.error(format!("its tokenizer: {reason}"))
    }
}

fn json(file: &Metadata) -> Result<Value, GgufError> {
    for (key, wanted) in [
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "qwen2"),
    ] {
        let found = file.text(key)?;
        if found != Some(wanted) {
            let found = found.map_or("missing".into(), quoted);
            return Err(file.error(format!("{key} is {found}, not Qwen's ({wanted})")));
        }
    }
    let need = |key: &str| file.error(format!("it has no key {key}, of the tokenizer"));
    let texts = |key: &str| file.texts(key)?.ok_or_else(|| need(key));
    let (tokens, merges) = (
        texts("tokenizer.ggml.tokens")?,
        texts("tokenizer.ggml.merges")?,
    );
    let key = "tokenizer.ggml.token_type";
    let kinds = file.integers(key)?.ok_or_else(|| need(key))?;
    if kinds.len() != tokens.len() {
        let reason = format!("{key} is of {} tokens, of {}", kinds.len(), tokens.len());
        return Err(file.error(reason));
    }
    let (mut vocabulary, mut added) = (Map::new(), Vec::new());
    for (id, (token, kind)) in tokens.into_iter().zip(kinds).enumerate() {
        match kind {
            NORMAL => {
                if vocabulary.insert(token.into(), json!(id)).is_some() {
                    let reason = format!("it has the token {} twice", quoted(token));
                    return Err(file.error(reason));
                }
            }
            CONTROL | USER_DEFINED => {
                let special = kind == CONTROL && !NOT_SPECIAL.contains(&token);
                added.push(json!({"id": id, "content": token, "special": special}));
            }
            // Fills the embedding table up.
            UNUSED => (),
            other => {
                let reason = format!("token {} is of type {other}", quoted(token));
                return Err(file.error(reason));
            }
        }
    }
    Ok(json!({
        // Not in the file: llama.cpp leaves it out, Qwen's tokenizers have it.
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": qwen_pre_tokenizer(),
        "decoder": byte_level(),
        "model": {"vocab": vocabulary, "merges": merges},
        "added_tokens": added,
    }))
}
