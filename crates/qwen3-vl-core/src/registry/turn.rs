//! Bounds the loads that run at a time.
//!
//! A cancelled load ends after its current tensor or connection, and holds its memory until then.
//! So that such loads do not pile up, a load waits for all earlier ones of the same model, and
//! while too many cancelled ones of other models run.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Key;

/// Most cancelled loads, of any models, beside which another load begins.
const MOST_ENDING: usize = 2;

/// How often a waiting load checks whether it was cancelled.
const POLL: Duration = Duration::from_millis(50);

/// The loads that run.
#[derive(Debug)]
pub(super) struct Turns<K> {
    running: Mutex<Vec<Running<K>>>,
    ended: Condvar,
}

#[derive(Debug)]
struct Running<K> {
    key: K,
    cancel: Arc<AtomicBool>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            ended: Condvar::new(),
        }
    }
}

impl<K> Turns<K> {
    fn lock(&self) -> MutexGuard<'_, Vec<Running<K>>> {
        // Valid after every statement, so a panic elsewhere does not matter.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to load, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<K: Key> {
    turns: Arc<Turns<K>>,
    cancel: Arc<AtomicBool>,
}

impl<K: Key> Turn<K> {
    /// Waits for the loads before it; `None` if it is cancelled meanwhile.
    pub(super) fn wait(turns: &Arc<Turns<K>>, key: &K, cancel: &Arc<AtomicBool>) -> Option<Self> {
        let mut running = turns.lock();
        loop {
            if cancel.load(Ordering::Relaxed) {
                return None;
            }
            let is_ending = |load: &&Running<K>| load.cancel.load(Ordering::Relaxed);
            let ending = running.iter().filter(is_ending).count();
            if ending < MOST_ENDING && running.iter().all(|load| load.key != *key) {
                running.push(Running {
                    key: key.clone(),
                    cancel: cancel.clone(),
                });
                return Some(Self {
                    turns: turns.clone(),
                    cancel: cancel.clone(),
                });
            }
            let wait = turns.ended.wait_timeout(running, POLL);
            running = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<K: Key> Drop for Turn<K> {
    fn drop(&mut self) {
        let ended = |load: &Running<K>| Arc::ptr_eq(&load.cancel, &self.cancel);
        self.turns.lock().retain(|load| !ended(load));
        self.turns.ended.notify_all();
    }
}
