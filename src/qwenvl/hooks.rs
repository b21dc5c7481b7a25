//! What tests may replace.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use qwen3_vl::backend::Backend;
use qwen3_vl::load::{self, LoadError, LoadOptions, Progress};

/// Loads a model; [`qwen3_vl::load::load`] outside tests.
pub type LoadFn = Arc<
    dyn Fn(
            &LoadOptions,
            &mut dyn FnMut(Progress),
            &AtomicBool,
        ) -> Result<Arc<dyn Backend>, LoadError>
        + Send
        + Sync,
>;

/// A place that a frame passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The streaming thread is about to decide whether to keep it.
    Sampling,
    /// The worker has taken it up.
    Worker,
}

/// What tests may replace: the loader, and what happens when a frame passes a stage.
#[derive(Clone)]
pub struct Hooks {
    /// Loads the model.
    pub load: LoadFn,
    /// Called at every stage. A test may wait or panic there.
    pub at: Arc<dyn Fn(Stage) + Send + Sync>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            load: Arc::new(load::load),
            at: Arc::new(|_| ()),
        }
    }
}
