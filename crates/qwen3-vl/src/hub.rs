//! Hub id to local folder.
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use crate::load::{LoadError, Progress};

/// Stub.
pub fn fetch(
    id: &str,
    _: Option<&str>,
    _: &mut dyn FnMut(Progress),
    _: &AtomicBool,
) -> Result<PathBuf, LoadError> {
    Err(LoadError::NotFound(id.into()))
}
