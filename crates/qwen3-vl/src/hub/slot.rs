//! One download at a time for each model of a cache in this process.
//!
//! A cancelled download may need seconds to end, because resolving a host and connecting cannot be
//! interrupted. The next download of the same model waits for it, so that they do not pile up.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

static TAKEN: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

fn taken() -> MutexGuard<'static, HashSet<PathBuf>> {
    // Every statement leaves the set valid, so a poisoned lock is safe to use.
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to download into a folder, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot(PathBuf);

impl Slot {
    /// Takes the slot of a folder; none while it is taken.
    pub(super) fn take(folder: &Path) -> Option<Self> {
        taken().insert(folder.into()).then(|| Self(folder.into()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        taken().remove(&self.0);
    }
}
