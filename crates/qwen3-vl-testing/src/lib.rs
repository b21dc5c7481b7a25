//! Common parts of integration tests, benchmarks and the program `engine`: inputs and weights by
//! formula, the reference values in `data`, parity with transformers, and kernel checks. Unit tests
//! and the libraries do not use it.
//!
//! The formulas are those of `tools/reference`, repeated bit for bit, so that neither the frames
//! nor the weights need to be stored.

pub mod checkpoint;
pub mod compare;
pub mod formats;
pub mod fuzz;
pub mod gguf;
pub mod golden;
#[cfg(feature = "cuda")]
pub mod kernels;
pub mod logits;
pub mod matrices;
pub mod parity;
pub mod sequence;
mod tokens;
pub mod weights;

use std::io;
use std::path::{Path, PathBuf};

pub use checkpoint::{
    Checkpoint, Real, write_checkpoint, write_checkpoint_like, write_real, write_wide,
    write_wide_experts,
};
pub use compare::{Check, Worst};
pub use formats::{Format, write_real_format};
pub use golden::Golden;

/// Folder of the test data. `QWEN3_VL_TEST_DATA` overrides it for a program that runs on another
/// machine than it was built on.
pub fn data_dir() -> PathBuf {
    std::env::var_os("QWEN3_VL_TEST_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("data"),
        PathBuf::from,
    )
}

/// Folder with Qwen's own `tokenizer.json` and `tokenizer_config.json`, which are too large to
/// store: `QWEN_TOKENIZER`, or where `scripts/test` puts them.
///
/// # Errors
///
/// If they are not there; the text says how to get them.
pub fn tokenizer_dir() -> io::Result<PathBuf> {
    let dir = std::env::var_os("QWEN_TOKENIZER").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tokenizer/package/models"),
        PathBuf::from,
    );
    if dir.join("tokenizer.json").is_file() {
        Ok(dir)
    } else {
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "no tokenizer.json in {}: run scripts/test once, which fetches it, or set \
                 QWEN_TOKENIZER to a folder that has Qwen's",
                dir.display()
            ),
        ))
    }
}

/// Puts Qwen's tokenizer into the checkpoint folder `dir`.
///
/// # Errors
///
/// See [`tokenizer_dir`]; those of copying.
pub fn write_tokenizer(dir: &Path) -> io::Result<()> {
    let from = tokenizer_dir()?;
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(name), dir.join(name))?;
    }
    Ok(())
}
