//! Bodies that come too slowly.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::HubError;

/// Slowest body, in bytes a second.
const SLOWEST: u64 = 1024;

/// Refuses a body that only trickles.
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

/// How long one read may take. The limit of the connection is for silence, and what stands around
/// the pieces of a body (their extensions, trailers) can break that for ever without being a byte
/// of it. A clone is the same one.
#[derive(Clone)]
pub(super) struct Deadline {
    patience: Duration,
    now: Arc<Mutex<Reading>>,
}

#[derive(Default)]
enum Reading {
    #[default]
    Nothing,
    Since(Instant),
    GivenUp,
}

impl Deadline {
    /// A little more than the patience, after which silence alone ends the read.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience: patience + patience / 4,
            now: Arc::default(),
        }
    }

    /// Reads under the deadline.
    ///
    /// # Errors
    ///
    /// [`HubError::Slow`] if it was given up.
    pub(super) fn during<T>(&self, read: impl FnOnce() -> T) -> Result<T, HubError> {
        *self.lock() = Reading::Since(Instant::now());
        let read = read();
        match std::mem::take(&mut *self.lock()) {
            Reading::GivenUp => Err(HubError::Slow(SLOWEST)),
            _ => Ok(read),
        }
    }

    /// Gives a read up that has taken too long at `time`; whether there is one.
    pub(super) fn is_over(&self, time: Instant) -> bool {
        let mut now = self.lock();
        let over = matches!(&*now, Reading::Since(start)
            if time.saturating_duration_since(*start) > self.patience);
        if over {
            *now = Reading::GivenUp;
        }
        over
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        // Valid after every statement, whatever panicked.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
