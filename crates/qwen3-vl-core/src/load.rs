//! Progress and errors of loading a model.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::backend::Backend;

/// Progress of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The current step, for instance `downloading model.safetensors`.
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
    /// A device, memory or service that it needs is missing or too small.
    #[error("{0}")]
    Unavailable(String),
    /// `cancel` was set.
    #[error("loading was cancelled")]
    Cancelled,
}

/// The result of a load.
pub type Loaded = Result<Arc<dyn Backend>, LoadError>;

/// A load. It blocks, reports its progress, and returns soon after the flag is set.
pub type Load = Box<dyn FnOnce(&mut dyn FnMut(Progress), &AtomicBool) -> Loaded + Send>;
