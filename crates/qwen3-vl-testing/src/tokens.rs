//! Tokens of another checkpoint, for checkpoints that are as small as can be.

use std::path::Path;
use std::{fs, io};

use serde_json::Value;

/// Ids in `config.json`.
const IDS: [&str; 4] = [
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
];

/// Files that belong to a tokenizer: the generation config names its ids.
const FILES: [&str; 4] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
];

/// The number of tokens of a checkpoint.
///
/// # Errors
///
/// Those of reading; if it does not say.
pub(crate) fn count(folder: &Path) -> io::Result<usize> {
    let count = config(folder)?["text_config"]["vocab_size"].as_u64();
    let count = count.ok_or_else(|| io::Error::other("config.json has no vocab_size"))?;
    usize::try_from(count).map_err(io::Error::other)
}

/// Puts the tokenizer of the checkpoint `other` into the checkpoint `folder`.
///
/// # Errors
///
/// Those of reading and writing.
pub(crate) fn adopt(folder: &Path, other: &Path) -> io::Result<()> {
    for name in FILES {
        fs::copy(other.join(name), folder.join(name))?;
    }
    let (mut config, theirs) = (config(folder)?, config(other)?);
    for id in IDS {
        config[id] = theirs[id].clone();
    }
    fs::write(folder.join("config.json"), config.to_string())
}

fn config(folder: &Path) -> io::Result<Value> {
    Ok(serde_json::from_slice(&fs::read(
        folder.join("config.json"),
    )?)?)
}
