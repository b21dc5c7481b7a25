//! How far a model is loaded, and why it cannot be.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backend::Backend;

/// How far loading has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, for instance `downloading model.safetensors`.
    pub what: String,
    /// 0 to 100.
    pub percent: u32,
}

/// Why a model could not be loaded; the text says what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such model.
    #[error("{0}")]
    NotFound(String),
    /// The files are there but cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// What is to run it is missing or too small.
    #[error("{0}")]
    Unavailable(String),
    /// `cancel` was set.
    #[error("loading was cancelled")]
    Cancelled,
}

/// What a load gives.
pub type Loaded = Result<Arc<dyn Backend>, LoadError>;

/// A load: blocks, says how far it is, and returns soon after the flag is set.
pub type Load = Box<dyn FnOnce(&mut dyn FnMut(Progress), &AtomicBool) -> Loaded + Send>;
