//! Hooks: the parts of the element that tests may replace.

use std::sync::Arc;

use crate::engines;
pub use crate::engines::LoadFn;

/// A stage that a frame passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The streaming thread is about to sample it.
    Sampling,
    /// The worker has taken it.
    Worker,
}

/// Gives the prompts of a window's requests.
pub type PromptsFn = dyn Fn(&str) -> Vec<String> + Send + Sync;

/// The loader, a callback at each stage of a frame, and the prompts of a window.
#[derive(Clone)]
pub struct Hooks {
    /// Loads the model. By default all elements with the same model share an engine.
    pub load: LoadFn,
    /// Called at every stage. A test may wait or panic there.
    pub at: Arc<dyn Fn(Stage) + Send + Sync>,
    /// The prompts of a window's requests, from the property `prompt`; by default that one alone.
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
