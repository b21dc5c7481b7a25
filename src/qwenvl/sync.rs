//! Locks and clock of the state that threads share. The model check replaces this module.

pub(super) use std::sync::atomic::AtomicBool;
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};

/// The time of day.
pub(super) fn now() -> std::time::Instant {
    std::time::Instant::now()
}
