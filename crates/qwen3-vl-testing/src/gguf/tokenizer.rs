//! The tokenizer's keys, by the converter's rules (llama.cpp: `get_vocab_base`, `SpecialVocab`).

use std::collections::BTreeMap;
use std::io;

use super::writer::{GgufFile, Value, i32s, texts};

/// Adds the keys of a `tokenizer.json`, in the converter's order, for a table of `rows` rows.
///
/// # Errors
///
/// If it has not the parts of Qwen's.
pub fn set_tokenizer(file: &mut GgufFile, json: &[u8], rows: usize) -> io::Result<()> {
    let json: serde_json::Value = serde_json::from_slice(json)?;
    let lacks = |what: &str| io::Error::other(format!("tokenizer.json has no {what}"));
    let mut tokens = BTreeMap::new();
    let vocabulary = json["model"]["vocab"].as_object();
    for (token, id) in vocabulary.ok_or_else(|| lacks("vocab"))? {
        tokens.insert(id.as_u64(), (token.clone(), 1));
    }
    let added = json["added_tokens"].as_array();
    for token in added.ok_or_else(|| lacks("added_tokens"))? {
        let text = token["content"].as_str().unwrap_or_default();
        let special = token["special"] == true || text.starts_with("<|") && text.ends_with("|>");
        let kind = if special { 3 } else { 4 };
        tokens.insert(token["id"].as_u64(), (text.to_owned(), kind));
    }
    let all = (0..rows as u64).map(|id| match tokens.get(&Some(id)) {
        Some((text, kind)) => (text.clone(), *kind),
        None => (format!("[PAD{id}]"), 5),
    });
    let (all, kinds): (Vec<String>, Vec<i32>) = all.unzip();
    let id = |text: &str| all.iter().position(|token| token == text).unwrap_or(0) as u32;
    let (end_of_turn, end_of_text) = (id("<|im_end|>"), id("<|endoftext|>"));
    let merges = json["model"]["merges"].as_array();
    let merges = merges.ok_or_else(|| lacks("merges"))?.iter().map(|merge| {
        let parts = merge.as_array().map(Vec::as_slice).unwrap_or_default();
        let parts: Vec<&str> = parts.iter().filter_map(serde_json::Value::as_str).collect();
        match merge.as_str() {
            Some(text) => text.to_owned(),
            None => parts.join(" "),
        }
    });
    file.set("tokenizer.ggml.model", "gpt2");
    file.set("tokenizer.ggml.pre", "qwen2");
    file.set("tokenizer.ggml.tokens", texts(all));
    file.set("tokenizer.ggml.token_type", i32s(kinds));
    file.set("tokenizer.ggml.merges", texts(merges));
    file.set("tokenizer.ggml.eos_token_id", Value::U32(end_of_turn));
    file.set("tokenizer.ggml.padding_token_id", Value::U32(end_of_text));
    file.set("tokenizer.ggml.bos_token_id", Value::U32(end_of_text));
    file.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    Ok(())
}
