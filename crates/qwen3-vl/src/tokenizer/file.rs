//! Reads the parts of a `tokenizer.json` that Qwen's tokenizers have.
//!
//! The format has many more parts, some of which take unbounded memory or time or panic on odd
//! input (a padding of 10⁸ tokens, chains of replacements, slow regular expressions). Only checked
//! parts are passed to the `tokenizers` crate.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::quote::{json_error, quoted, value};

/// How Qwen's tokenizers split text before merging (transformers: `PRETOKENIZE_REGEX` of
/// `tokenization_qwen2.py`).
const SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Bound on ids, whatever the size of the embedding table: more than twice Qwen's largest
/// vocabulary.
const MOST_IDS: u32 = 1 << 20;
/// Most added tokens; Qwen's tokenizers have 26.
const MOST_ADDED: usize = 10_000;

/// The checked parts of the file.
pub(super) struct TokenizerFile {
    /// The tokenizer for the crate `tokenizers`, without added tokens.
    pub(super) tokenizer: Value,
    pub(super) added: Vec<Added>,
    /// The token with the largest id.
    pub(super) last: (String, u32),
}

/// A token that is added to the BPE vocabulary.
pub(super) struct Added {
    pub(super) content: String,
    pub(super) id: u32,
    /// Whether it is left out of decoded text.
    pub(super) special: bool,
}

impl TokenizerFile {
    /// Reads and checks the file. The error names the part that Qwen's tokenizers do not have.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        Self::check(serde_json::from_slice(json).map_err(|e| json_error(&e))?)
    }

    /// Checks what has been read.
    pub(super) fn check(parsed: Value) -> Result<Self, String> {
        let Value::Object(mut file) = parsed else {
            return Err("it holds no object".into());
        };
        let mut part = |name: &str| file.remove(name).unwrap_or(Value::Null);
        let normalizer = normalizer(&part("normalizer"))?;
        pre_tokenizer(&part("pre_tokenizer"))?;
        post_processor(&part("post_processor"))?;
        decoder(&part("decoder"))?;
        let Value::Object(mut model) = part("model") else {
            return Err("it has no model".into());
        };
        let vocabulary = vocabulary(&mut model)?;
        let added = added_tokens(part("added_tokens"), &vocabulary)?;
        let merges = merges(&mut model, &vocabulary)?;
        settings(&model)?;
        let all = vocabulary.iter().map(|(token, id)| (token.as_str(), *id));
        let all = all.chain(added.iter().map(|token| (token.content.as_str(), token.id)));
        let last = all
            .max_by_key(|(_, id)| *id)
            .map(|(token, id)| (token.to_owned(), id));
        let tokenizer = json!({
            "version": "1.0",
            "normalizer": normalizer,
            "pre_tokenizer": qwen_pre_tokenizer(),
            "decoder": byte_level(),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": false,
                "vocab": vocabulary,
                "merges": merges,
            },
        });
        Ok(Self {
            tokenizer,
            added,
            last: last.ok_or("its vocabulary is empty")?,
        })
    }
}

/// How Qwen's tokenizers map bytes to characters and back.
pub(super) fn byte_level() -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": false,
        "use_regex": false,
    })
}

/// How they cut text before merging.
pub(super) fn qwen_pre_tokenizer() -> Value {
    let split = json!({
        "type": "Split",
        "pattern": {"Regex": SPLIT},
        "behavior": "Isolated",
        "invert": false,
    });
    json!({"type": "Sequence", "pretokenizers": [split, byte_level()]})
}

/// The kind of a part, for errors.
fn kind(part: &Value) -> String {
    let name = part.get("type").unwrap_or(part);
    value(name)
}

fn type_is(part: &Value, name: &str) -> bool {
    part.get("type").and_then(Value::as_str) == Some(name)
}

fn normalizer(part: &Value) -> Result<Value, String> {
    let nfc = |part: &Value| type_is(part, "NFC");
    let chain = part.get("normalizers").and_then(Value::as_array);
    let chain_of_nfc = type_is(part, "Sequence") && chain.is_some_and(|all| all.iter().all(nfc));
    match chain {
        _ if part.is_null() => Ok(Value::Null),
        Some(all) if chain_of_nfc && all.is_empty() => Ok(Value::Null),
        _ if nfc(part) || chain_of_nfc => Ok(json!({"type": "NFC"})),
        _ => Err(format!(
            "normalizer {} is not supported (NFC is)",
            kind(part)
        )),
    }
}

fn pre_tokenizer(part: &Value) -> Result<(), String> {
    let steps = part.get("pretokenizers").and_then(Value::as_array);
    let [split, bytes] = steps.map_or(&[][..], Vec::as_slice) else {
        return Err(format!(
            "pre_tokenizer {} is not supported (a Sequence of Split and ByteLevel is)",
            kind(part)
        ));
    };
    let off = |part: &Value, name: &str| part.get(name) == Some(&Value::Bool(false));
    let pattern = split
        .get("pattern")
        .and_then(|pattern| pattern.get("Regex"));
    let behavior = split.get("behavior").and_then(Value::as_str);
    if !type_is(split, "Split") || behavior != Some("Isolated") || !off(split, "invert") {
        return Err(format!("pre_tokenizer {} is not Qwen's Split", kind(split)));
    }
    if pattern.and_then(Value::as_str) != Some(SPLIT) {
        let pattern = pattern.map_or("none".into(), value);
        return Err(format!(
            "the pattern of the Split is not Qwen's but {pattern}"
        ));
    }
    let bytes_fit = off(bytes, "add_prefix_space") && off(bytes, "use_regex");
    match type_is(bytes, "ByteLevel") && bytes_fit {
        true => Ok(()),
        false => Err(format!(
            "pre_tokenizer {} is not Qwen's ByteLevel",
            kind(bytes)
        )),
    }
}

/// Checks that it adds no tokens: the prompt is laid out elsewhere.
fn post_processor(part: &Value) -> Result<(), String> {
    let sequences = |name: &str| {
        let pieces = part.get(name).and_then(Value::as_array);
        pieces.is_none_or(|all| all.iter().all(|piece| piece.get("Sequence").is_some()))
    };
    let adds_nothing = part.is_null()
        || type_is(part, "ByteLevel")
        || type_is(part, "TemplateProcessing") && sequences("single") && sequences("pair");
    match adds_nothing {
        true => Ok(()),
        false => Err(format!(
            "post_processor {} is not supported (ByteLevel is, which adds no tokens)",
            kind(part)
        )),
    }
}

fn decoder(part: &Value) -> Result<(), String> {
    match type_is(part, "ByteLevel") {
        true => Ok(()),
        false => Err(format!(
            "decoder {} is not supported (ByteLevel is)",
            kind(part)
        )),
    }
}

/// Checks that all other settings of a BPE model are off.
fn settings(model: &Map<String, Value>) -> Result<(), String> {
    match model.get("type").unwrap_or(&Value::Null) {
        Value::Null => (),
        Value::String(name) if name == "BPE" => (),
        other => return Err(format!("model {} is not supported (BPE is)", value(other))),
    }
    for name in [
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "fuse_unk",
        "byte_fallback",
        "ignore_merges",
    ] {
        let said = model.get(name).unwrap_or(&Value::Null);
        let off = match said {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Number(number) => number.as_f64() == Some(0.0),
            _ => false,
        };
        if !off {
            return Err(format!("model: {name} {} is not supported", value(said)));
        }
    }
    Ok(())
}

fn token_id(id: &Value) -> Option<u32> {
    let id = u32::try_from(id.as_u64()?).ok()?;
    (id < MOST_IDS).then_some(id)
}

fn vocabulary(model: &mut Map<String, Value>) -> Result<HashMap<String, u32>, String> {
    let Some(Value::Object(entries)) = model.remove("vocab") else {
        return Err("its model has no vocabulary".into());
    };
    let mut vocabulary = HashMap::with_capacity(entries.len());
    let mut ids = HashSet::with_capacity(entries.len());
    for (token, id) in entries {
        let Some(id) = token_id(&id) else {
            return Err(format!(
                "the id of token {} is {}",
                quoted(&token),
                value(&id)
            ));
        };
        if !ids.insert(id) {
            return Err(format!(
                "two tokens have the id {id}, {} is one",
                quoted(&token)
            ));
        }
        vocabulary.insert(token, id);
    }
    Ok(vocabulary)
}

/// Pairs of tokens: newer files have lists, older ones strings with a space.
fn merges(
    model: &mut Map<String, Value>,
    vocabulary: &HashMap<String, u32>,
) -> Result<Vec<[String; 2]>, String> {
    let Some(Value::Array(entries)) = model.remove("merges") else {
        return Err("its model has no merges".into());
    };
    let mut merged = String::new();
    let pair = |entry: Value| {
        let parts: [String; 2] = match &entry {
            Value::String(text) => text.split_once(' ').map(|(a, b)| [a.into(), b.into()]),
            Value::Array(parts) => match parts.as_slice() {
                [Value::String(a), Value::String(b)] => Some([a.clone(), b.clone()]),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| format!("merge {} is not a pair of tokens", value(&entry)))?;
        merged.clear();
        merged.extend(parts.iter().map(String::as_str));
        let [first, second] = &parts;
        let all = [first.as_str(), second, merged.as_str()];
        let unknown = all
            .into_iter()
            .find(|token| !vocabulary.contains_key(*token));
        match unknown.map(quoted) {
            None => Ok(parts),
            Some(token) => Err(format!(
                "a merge has the token {token}, which is not in the vocabulary"
            )),
        }
    };
    entries.into_iter().map(pair).collect()
}

fn added_tokens(part: Value, vocabulary: &HashMap<String, u32>) -> Result<Vec<Added>, String> {
    let entries = match part {
        Value::Null => Vec::new(),
        Value::Array(entries) => entries,
        other => return Err(format!("added_tokens is {}, not a list", value(&other))),
    };
    if entries.len() > MOST_ADDED {
        return Err(format!(
            "it has {} added tokens, at most {MOST_ADDED} fit",
            entries.len()
        ));
    }
    let taken: HashSet<u32> = vocabulary.values().copied().collect();
    let (mut names, mut ids) = (HashSet::new(), HashSet::new());
    let mut added = Vec::with_capacity(entries.len());
    for entry in entries {
        let content = entry.get("content").and_then(Value::as_str);
        let id = entry.get("id").and_then(token_id);
        let (Some(content), Some(id)) = (content.filter(|content| !content.is_empty()), id) else {
            let id = entry.get("id").map_or("missing".into(), value);
            return Err(format!(
                "added token {}: its id is {id}",
                content.map_or("without content".into(), quoted)
            ));
        };
        let in_vocabulary = vocabulary.get(content);
        let free = match in_vocabulary {
            Some(same) => *same == id,
            None => !taken.contains(&id),
        };
        if !free || !names.insert(content.to_owned()) || !ids.insert(id) {
            return Err(format!(
                "added token {}: its id {id} is not its own",
                quoted(content)
            ));
        }
        added.push(Added {
            content: content.into(),
            id,
            special: entry.get("special") == Some(&Value::Bool(true)),
        });
    }
    Ok(added)
}
