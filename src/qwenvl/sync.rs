//! What the hand-over between the threads is made of. The model check has another one of these.

pub(super) use std::sync::atomic::AtomicBool;
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};

/// The time of day.
pub(super) fn now() -> std::time::Instant {
    std::time::Instant::now()
}
