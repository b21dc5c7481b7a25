//! Which files of a repository make a checkpoint.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

/// Files without which nothing can be loaded.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];

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

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// The files to fetch first, out of those a repository has: all but the shards of an index.
///
/// # Errors
///
/// A text that says what is missing.
pub(super) fn first_files(available: &BTreeSet<String>) -> Result<Vec<String>, String> {
    if let Some(missing) = NEEDED.iter().find(|name| !available.contains(**name)) {
        return Err(format!("it has no {missing}"));
    }
    let weights = [INDEX, SINGLE]
        .into_iter()
        .find(|name| available.contains(*name))
        .ok_or("it has no safetensors weights")?;
    let names = NEEDED.iter().chain(&USED).chain([&weights]);
    Ok(names
        .filter(|name| available.contains(**name))
        .map(|name| name.to_string())
        .collect())
}

/// The shards that the folder's index names, in order; none if it has no index.
///
/// # Errors
///
/// An index that cannot be read, or names something else than files beside it.
pub(super) fn shards(folder: &Path) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::HashMap<String, String>,
    }
    let path = folder.join(INDEX);
    if !path.exists() {
        return Ok(BTreeSet::new());
    }
    let text = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let index: Index =
        serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    match names
        .iter()
        .find(|name| name.contains(['/', '\\']) || !name.ends_with(".safetensors"))
    {
        Some(name) => Err(format!("{INDEX} names {name:?}, which is not a shard")),
        None => Ok(names),
    }
}

/// Whether a folder has all it takes to load a model.
pub(super) fn is_complete(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let weights = if has(INDEX) {
        shards(folder).is_ok_and(|shards| shards.iter().all(|name| has(name)))
    } else {
        has(SINGLE)
    };
    weights && NEEDED.iter().all(|name| has(name))
}
