//! One engine per model for all callers in the process.

mod key;

use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use qwen3_vl_core::load::{Loaded, Progress};
use qwen3_vl_core::registry::Registry;

use crate::load::{self, LoadOptions};
pub use key::ModelKey;

/// Like [`load::load`], but returns the running engine of this model, if there is one.
///
/// # Errors
///
/// See [`LoadError`](qwen3_vl_core::load::LoadError).
pub fn load(
    options: &LoadOptions,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Loaded {
    static PROCESS: LazyLock<Registry<ModelKey>> = LazyLock::new(Registry::default);
    let own = options.clone();
    let load = Box::new(
        move |progress: &mut dyn FnMut(Progress), cancel: &AtomicBool| {
            load::load(&own, progress, cancel)
        },
    );
    PROCESS.load(ModelKey::new(options), load, progress, cancel)
}
