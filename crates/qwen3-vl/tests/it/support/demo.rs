//! Copies of the demo model, to be changed.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use qwen3_vl::compute::Compute;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{self, LoadOptions, ModelSource};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_core::KvMemory;
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::load::{LoadError, Progress};
use serde_json::Value;
use tempfile::TempDir;

/// A new folder with all files of the demo model.
pub fn demo() -> TempDir {
    let copy = TempDir::new().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    for entry in fs::read_dir(demo).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// The end of the chat template of the Thinking models.
pub const THINKING_TEMPLATE: &str = "{%- if add_generation_prompt %}\n\
     {{- '<|im_start|>assistant\\n<think>\\n' }}\n{%- endif %}\n";

/// Ids of `<think>` and `</think>` in [`thinking`].
pub const TAGS: [u32; 2] = [509, 510];

/// The demo model as one that thinks: `<think>` and `</think>` in the place of two tokens that it
/// never gets or gives, and a chat template that ends in `<think>`.
pub fn thinking() -> TempDir {
    let copy = with("tokenizer.json", |file| {
        let added = file["added_tokens"].as_array_mut().unwrap();
        for (id, tag) in TAGS.iter().zip(["<think>", "</think>"]) {
            let token = added.iter_mut().find(|token| token["id"] == *id).unwrap();
            token["content"] = tag.into();
            token["special"] = false.into();
        }
    });
    fs::write(copy.path().join("chat_template.jinja"), THINKING_TEMPLATE).unwrap();
    copy
}

/// Reads a JSON file of a folder.
pub fn json(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
}

/// The demo model with a JSON file changed.
pub fn with(name: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let copy = demo();
    edit(copy.path(), name, change);
    copy
}

/// Changes a JSON file of a folder.
pub fn edit(folder: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let mut value = json(folder, name);
    change(&mut value);
    fs::write(folder.join(name), value.to_string()).unwrap();
}

pub fn options(folder: &Path) -> LoadOptions {
    LoadOptions {
        source: ModelSource::Folder(folder.into()),
        mmproj: None,
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization: QuantizeAtLoad::None,
        compute: Some(Compute::Exact),
        kv_memory: Some(KvMemory::Bytes(64 << 20)),
    }
}

pub fn load(folder: &Path) -> Result<Arc<dyn Backend>, LoadError> {
    load::load(
        &options(folder),
        &mut |_: Progress| (),
        &AtomicBool::new(false),
    )
}

/// The error text of a folder that cannot be loaded; it must contain all words.
pub fn refused(folder: &Path, words: &[&str]) -> String {
    let error = load(folder).err().expect("it was loaded").to_string();
    assert_words(&error, words);
    error
}

/// Like [`refused`]; [`load::check`] must refuse the folder too.
pub fn refused_at_once(folder: &Path, words: &[&str]) -> String {
    let error = load::check(&options(folder))
        .expect_err("it passed")
        .to_string();
    assert_words(&error, words);
    refused(folder, words)
}

fn assert_words(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{error} lacks {word:?}");
    }
}
