//! Loom's locks, with timed waits: loom's own never time out.

use std::cell::Cell;
use std::sync::{LazyLock, LockResult};
use std::time::{Duration, Instant};

pub(in crate::qwenvl) use loom::sync::atomic::AtomicBool;
pub(in crate::qwenvl) use loom::sync::{Mutex, MutexGuard};

// All threads of a model run on the one of its test.
thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static WAITS_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The next `waits` timed waits end by a wake-up; those after them time out.
pub(in crate::qwenvl) fn time_is_over_after(waits: usize) {
    WAITS_LEFT.set(waits);
}

/// A clock that only timed waits move.
pub(in crate::qwenvl) fn now() -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + NOW.get()
}

/// Loom's condition variable, with timed waits.
#[derive(Default)]
pub(in crate::qwenvl) struct Condvar(loom::sync::Condvar);

impl Condvar {
    pub(in crate::qwenvl) fn new() -> Self {
        Self::default()
    }

    pub(in crate::qwenvl) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(in crate::qwenvl) fn wait<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
    ) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    pub(in crate::qwenvl) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        time: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        let guard = match WAITS_LEFT.get().checked_sub(1) {
            None => {
                NOW.set(NOW.get() + time);
                guard
            }
            Some(left) => {
                WAITS_LEFT.set(left);
                let guard = self.0.wait(guard);
                guard.unwrap_or_else(|_| unreachable!("no model panics with a lock held"))
            }
        };
        Ok((guard, ()))
    }
}
