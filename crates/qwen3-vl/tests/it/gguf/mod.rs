//! Models in GGUF.

mod container;
mod metadata;
mod model;
mod names;
mod tokenizer;

use std::path::Path;

use candle_core::quantized::GgmlDType;
use qwen3_vl::weights::gguf::{Gguf, GgufModel};
use qwen3_vl_testing::gguf::{Converted, GgufFile, convert};

/// The demo model with all tensors in f32.
fn demo() -> Converted {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    convert(&folder, &|_, _| GgmlDType::F32).unwrap()
}

fn read(file: &GgufFile) -> Result<Gguf, String> {
    Gguf::from_bytes(file.bytes()).map_err(|e| e.to_string())
}

/// The model of both files.
fn open(files: &Converted) -> Result<GgufModel, String> {
    let (text, vision) = (read(&files.text)?, read(&files.vision)?);
    GgufModel::new(text, Vec::new(), vision).map_err(|e| e.to_string())
}

/// That an error is short, on one line, and has these words.
fn assert_words(error: &str, words: &[&str]) {
    assert!(
        error.len() < 1500 && !error.contains(char::is_control),
        "{error:?}"
    );
    for word in words {
        assert!(error.contains(word), "{error} lacks {word:?}");
    }
}
