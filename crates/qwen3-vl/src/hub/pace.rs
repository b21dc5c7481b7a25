//! Limits on bodies that arrive too slowly.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::HubError;

/// Slowest allowed body, in bytes per second.
const SLOWEST: u64 = 1024;

/// Refuses a body that arrives too slowly.
pub(super) struct Pace {
    window: Duration,
    start: Instant,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(window: Duration) -> Self {
        Self {
            window,
            start: Instant::now(),
            bytes: 0,
        }
    }

    pub(super) fn count(&mut self, bytes: usize) -> Result<(), HubError> {
        self.bytes += bytes as u64;
        let elapsed = self.start.elapsed();
        if elapsed < self.window {
            return Ok(());
        }
        if (self.bytes as f64) < SLOWEST as f64 * elapsed.as_secs_f64() {
            return Err(HubError::Slow(SLOWEST));
        }
        *self = Self::new(self.window);
        Ok(())
    }
}

/// How long one read may take. The connection's timeout ends only silence, but chunk extensions and
/// trailers can arrive forever without a byte of the body. Clones share their reads.
#[derive(Clone)]
pub(super) struct Deadline {
    stall_timeout: Duration,
    now: Arc<Mutex<Reads>>,
}

/// The reads that run.
#[derive(Default)]
struct Reads {
    /// When each began, by its number.
    since: BTreeMap<u64, Instant>,
    next: u64,
    /// Whether one was over its deadline: all end then.
    given_up: bool,
}

impl Deadline {
    /// A deadline a little above the stall timeout, which ends silent reads by itself.
    pub(super) fn new(stall_timeout: Duration) -> Self {
        Self {
            stall_timeout: stall_timeout + stall_timeout / 4,
            now: Arc::default(),
        }
    }

    /// Reads under the deadline.
    ///
    /// # Errors
    ///
    /// [`HubError::Slow`] if the deadline of a read passed.
    pub(super) fn during<T>(&self, read: impl FnOnce() -> T) -> Result<T, HubError> {
        let number = {
            let mut now = self.lock();
            now.next += 1;
            let number = now.next;
            now.since.insert(number, Instant::now());
            number
        };
        let read = read();
        let mut now = self.lock();
        now.since.remove(&number);
        match now.given_up {
            true => Err(HubError::Slow(SLOWEST)),
            false => Ok(read),
        }
    }

    /// Gives up all reads if one is over its deadline at `time`; whether it did.
    pub(super) fn is_over(&self, time: Instant) -> bool {
        let mut now = self.lock();
        let over = |start: &Instant| time.saturating_duration_since(*start) > self.stall_timeout;
        let over = !now.given_up && now.since.values().any(over);
        now.given_up |= over;
        over
    }

    fn lock(&self) -> MutexGuard<'_, Reads> {
        // Every statement leaves the value valid, so a poisoned lock is safe to use.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
