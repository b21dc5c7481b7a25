//! Selects the files of a repository that make a checkpoint.

use std::collections::BTreeSet;
use std::path::Path;

use crate::file::{self, read_bounded};
use crate::folder;
use crate::index::{self, INDEX, SINGLE};
use crate::quote::quoted;
use crate::weights::gguf::find::is_gguf;

/// Files that every checkpoint must have.
const NEEDED: [&str; 2] = [CONFIG, "tokenizer.json"];

/// Fetched first, because it tells whether the model is supported.
pub(super) const CONFIG: &str = "config.json";

/// Files that are used where they exist.
const USED: [&str; 7] = [
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Most shards of a model; the largest official one has 94.
const MAX_SHARDS: usize = 1000;

/// Most bytes of a file that a hub may send; for small files, the limits of reading them later.
pub(super) fn limit(name: &str) -> u64 {
    match name {
        "tokenizer.json" => file::TOKENIZER_LIMIT,
        INDEX => file::INDEX_LIMIT,
        _ if name.ends_with(".safetensors") || is_gguf(name) => 256 << 30,
        _ => file::CONFIG_LIMIT,
    }
}

/// The files of a repository to fetch first: all but the shards of an index. The configuration
/// comes first.
///
/// # Errors
///
/// A text that names the missing file.
pub(super) fn first_files(available: &BTreeSet<String>) -> Result<Vec<String>, String> {
    if let Some(missing) = NEEDED.iter().find(|name| !available.contains(**name)) {
        let reason = folder::reason(available, missing);
        return Err(format!("it has no {missing}: {reason}"));
    }
    // As in transformers, an index beside a single file is ignored as a leftover.
    let weights = [SINGLE, INDEX]
        .into_iter()
        .find(|name| available.contains(*name));
    let weights = weights.ok_or_else(|| {
        let reason = folder::reason(available, SINGLE);
        format!("it has no safetensors weights: {reason}")
    })?;
    let names = NEEDED.iter().chain(&USED).chain([&weights]);
    Ok(names
        .filter(|name| available.contains(**name))
        .map(|name| name.to_string())
        .collect())
}

/// The shards that the folder's index names, in order.
///
/// # Errors
///
/// If the index cannot be read, or names anything but files beside it.
pub(super) fn shards(folder: &Path) -> Result<BTreeSet<String>, String> {
    let text =
        read_bounded(&folder.join(INDEX), limit(INDEX)).map_err(|e| format!("{INDEX}: {e}"))?;
    let names = index::shard_names(&text).map_err(|e| format!("{INDEX}: {e}"))?;
    if names.len() > MAX_SHARDS {
        return Err(format!("{INDEX} names more than {MAX_SHARDS} shards"));
    }
    match names.iter().find(|name| !is_shard(name)) {
        Some(name) => Err(format!(
            "{INDEX} names {}, which is not a shard",
            quoted(name)
        )),
        None => Ok(names),
    }
}

/// Whether a name is a file beside the index, and safe in paths and addresses.
fn is_shard(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    name.len() <= 200
        && !name.starts_with('.')
        && name.ends_with(".safetensors")
        && name.bytes().all(plain)
}

/// Whether a folder has all files to load a model.
pub(super) fn is_complete(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let sharded = || shards(folder).is_ok_and(|shards| shards.iter().all(|name| has(name)));
    let weights = has(SINGLE) || has(INDEX) && sharded();
    weights && NEEDED.iter().all(|name| has(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_plain_names() {
        assert!(is_shard("model-00001-of-00002.safetensors"));
        for name in [
            "../model.safetensors",
            "a/b.safetensors",
            "a\\b.safetensors",
            ".safetensors",
            "..safetensors",
            "a%2fb.safetensors",
            "a?b=.safetensors",
            "model.bin",
            "",
        ] {
            assert!(!is_shard(name), "{name}");
        }
        assert!(!is_shard(&format!("{}.safetensors", "a".repeat(300))));
    }

    #[test]
    fn only_weights_may_be_large() {
        assert!(limit("model-1.safetensors") > 100 << 30);
        assert!(limit("Q8_0/model.gguf") > 100 << 30);
        assert!(limit(CONFIG) < 10 << 20);
        assert!(limit("chat_template.jinja") < 10 << 20);
    }
}
