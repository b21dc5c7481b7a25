//! The files with a checkpoint's weights. Pure: names only.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use crate::quote::{json_error, quoted};

/// The file with all weights. As in transformers, an index beside it is ignored as a leftover.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The index that names the shards of split weights.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The shards that an index names, in order.
///
/// # Errors
///
/// A text: it is not JSON, names no file, or names one outside its folder.
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
