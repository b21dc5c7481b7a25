//! Counts panics of all threads, also those that the engine catches.

use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

static COUNT: AtomicUsize = AtomicUsize::new(0);
static LAST: Mutex<String> = Mutex::new(String::new());

/// Counts from now on.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            COUNT.fetch_add(1, Ordering::Relaxed);
            *LAST.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
            before(info);
        }));
    });
}

/// Panics so far.
pub fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// What the last one said.
pub fn last() -> String {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
