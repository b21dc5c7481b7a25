//! Which files hold a checkpoint's weights. Pure: names only.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use crate::quote::{json_error, quoted};

/// All weights in one file. Where it is, an index beside it is one that was left behind, as for
/// transformers.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Names the files of weights that are split, the shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The files that an index names, in order.
///
/// # Errors
///
/// What is wrong with it: no JSON, no name, or one that leads out of its folder.
pub(crate) fn shard_names(json: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let index: Index = serde_json::from_slice(json).map_err(|e| json_error(&e))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    let strange = |name: &&String| Path::new(*name).file_name() != Some(name.as_ref());
    match names.iter().find(strange) {
        Some(name) => Err(format!(
            "{} is not a plain file name, and so not a shard",
            quoted(name)
        )),
        None if names.is_empty() => Err("it names no file".into()),
        None => Ok(names),
    }
}
