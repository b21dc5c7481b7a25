//! What tests may replace.

use std::sync::Arc;

use crate::engines;
pub use crate::engines::LoadFn;

/// A place that a frame passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The streaming thread is about to decide whether to keep it.
    Sampling,
    /// The worker has taken it up.
    Worker,
}

/// Gives the prompts of a window's requests.
pub type PromptsFn = dyn Fn(&str) -> Vec<String> + Send + Sync;

/// What tests may replace: the loader, what happens when a frame passes a stage, and what a window is
/// asked.
#[derive(Clone)]
pub struct Hooks {
    /// Loads the model; outside tests one engine for all elements with the same model.
    pub load: LoadFn,
    /// Called at every stage. A test may wait or panic there.
    pub at: Arc<dyn Fn(Stage) + Send + Sync>,
    /// The prompts of a window's requests by the property `prompt`; outside tests that one.
    pub prompts: Arc<PromptsFn>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            load: Arc::new(engines::load),
            at: Arc::new(|_| ()),
            prompts: Arc::new(|prompt| vec![prompt.to_owned()]),
        }
    }
}
