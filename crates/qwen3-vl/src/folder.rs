//! Explains to users why a path is not a checkpoint, and what to do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use qwen3_vl_core::load::LoadError;

use crate::index::{INDEX, SINGLE};
use crate::quote::shortened;
use crate::weights::gguf::{find, in_folder};

/// Most entries of a folder to look at.
const MOST_ENTRIES: usize = 10_000;

/// Checks that the path is a folder.
///
/// # Errors
///
/// A [`LoadError`] that says what the path is instead.
pub(crate) fn ensure_folder(path: &Path) -> Result<(), LoadError> {
    let shown = shortened(path.display());
    if path.is_dir() {
        return Ok(());
    }
    if path.exists() {
        return Err(LoadError::Invalid(format!(
            "{shown} is a file: give the folder of the checkpoint, which holds config.json, or a \
             GGUF file"
        )));
    }
    Err(LoadError::NotFound(format!(
        "there is no folder {shown}: give demo, a checkpoint's folder, a GGUF file or a hub id \
         such as Qwen/Qwen3-VL-4B-Instruct"
    )))
}

/// The GGUF file of the language model that a path means: itself, or the one in a folder that has
/// no safetensors. None if the path is something else.
///
/// # Errors
///
/// [`LoadError::Invalid`] lists several in a folder.
pub(crate) fn gguf(path: &Path) -> Result<Option<PathBuf>, LoadError> {
    if !path.is_dir() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return Ok((find::is_gguf(&name) && path.exists()).then(|| path.into()));
    }
    let has = |name: &str| path.join(name).symlink_metadata().is_ok();
    if has(SINGLE) || has(INDEX) {
        return Ok(None);
    }
    in_folder(path).map_err(|e| LoadError::Invalid(e.to_string()))
}

const GGUF: &str = "there are GGUF files, of which one is to be named: the path of the language \
                    model's, or OWNER/NAME/FILE.gguf of a model on the hub";

/// The error for a folder that lacks a file, explained by its other files.
pub(crate) fn lacks(folder: &Path, file: &str) -> LoadError {
    let shown = shortened(folder.display());
    let reason = reason(&names(folder), file);
    LoadError::Invalid(format!("{shown} has no {file}: {reason}"))
}

/// Why a folder or a hub's model with files of these names lacks `file`.
pub(crate) fn reason(names: &BTreeSet<String>, file: &str) -> String {
    let has = |name: &str| names.contains(name);
    let ends = |end: &str| names.iter().any(|name| name.ends_with(end));
    let begins = |start: &str| names.iter().any(|name| name.starts_with(start));
    let weights = file.starts_with("model.safetensors");
    if (weights || file == "config.json") && has("adapter_config.json") {
        "it is a LoRA adapter (adapter_config.json), which cannot be loaded: merge it into its \
         base model (peft: merge_and_unload, then save_pretrained) and give that folder"
            .into()
    } else if weights && (begins("pytorch_model") || ends(".pth") || ends(".bin")) {
        "its weights are in PyTorch's format, which is not read: save them as safetensors \
         (transformers: save_pretrained)"
            .into()
    } else if (weights || file == "config.json") && ends(".gguf") {
        GGUF.into()
    } else if weights && (ends(".onnx") || has("onnx")) {
        "it is an ONNX export, which cannot be loaded: give the original checkpoint".into()
    } else if weights {
        "the folder must hold model.safetensors, or model.safetensors.index.json and every file \
         that it names"
            .into()
    } else if file == "tokenizer.json" && has("vocab.json") && has("merges.txt") {
        "there are vocab.json and merges.txt, of which transformers makes one: \
         AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            .into()
    } else if file == "config.json" && has("onnx") {
        "it is an ONNX export, which cannot be loaded: give the original checkpoint".into()
    } else {
        "it is not a checkpoint as Hugging Face lays it out: give one such as \
         Qwen/Qwen3-VL-4B-Instruct"
            .into()
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.take(MOST_ENTRIES).collect()
}
