//! One download at a time for each model of a cache in this process.
//!
//! A download that was cancelled may need seconds to end: finding a host and connecting to it
//! cannot be interrupted. The next one of the same model waits for it, so they do not pile up.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

static TAKEN: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

fn taken() -> MutexGuard<'static, HashSet<PathBuf>> {
    // Valid after every statement, so a panic elsewhere does not matter.
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to download into a folder, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot(PathBuf);

impl Slot {
    /// None while somebody else has it.
    pub(super) fn take(folder: &Path) -> Option<Self> {
        taken().insert(folder.into()).then(|| Self(folder.into()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        taken().remove(&self.0);
    }
}
