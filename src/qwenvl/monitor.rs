//! A lock with its condition variable.

use std::sync::PoisonError;
use std::time::Instant;

use super::sync::{Condvar, Mutex, MutexGuard, now};

/// State that threads share and wait for. Every change wakes all waiting threads.
#[derive(Default)]
pub(in crate::qwenvl) struct Monitor<T> {
    state: Mutex<T>,
    changed: Condvar,
}

impl<T> Monitor<T> {
    pub(in crate::qwenvl) fn new(state: T) -> Self {
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// The state. A panic of another thread must not spread: the state is valid at any time.
    pub(in crate::qwenvl) fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state.
    pub(in crate::qwenvl) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.wake();
        result
    }

    /// Wakes all waiting threads after a change under [`Self::lock`].
    pub(in crate::qwenvl) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Waits for a change.
    pub(in crate::qwenvl) fn wait<'a>(&self, state: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let state = self.changed.wait(state);
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, at most until `until`, if given. `false` if that has passed already.
    pub(in crate::qwenvl) fn wait_until<'a>(
        &self,
        state: MutexGuard<'a, T>,
        until: Option<Instant>,
    ) -> (MutexGuard<'a, T>, bool) {
        let Some(until) = until else {
            return (self.wait(state), true);
        };
        let left = until.saturating_duration_since(now());
        if left.is_zero() {
            return (state, false);
        }
        let result = self.changed.wait_timeout(state, left);
        (result.unwrap_or_else(PoisonError::into_inner).0, true)
    }
}
