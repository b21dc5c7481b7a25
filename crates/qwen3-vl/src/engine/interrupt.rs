//! Ends a step that nobody waits for any more, from another thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::runner::StepError;
use crate::cpu::pool::Flag;

/// Says whether the step that runs is still wanted: the engine tells it whose step that is, callers tell
/// it whom they have given up. Kernels look at its [`Flag`].
#[derive(Debug, Default)]
pub struct Interrupt {
    flag: Flag,
    stopped: AtomicBool,
    /// Windows that wait for the step that runs.
    waiting: Mutex<Vec<u64>>,
}

impl Interrupt {
    /// What kernels look at.
    pub fn flag(&self) -> &Flag {
        &self.flag
    }

    /// A step begins for these windows. It has ended when the result is dropped.
    pub fn begin(self: &Arc<Self>, windows: Vec<u64>) -> Running {
        *self.lock() = windows;
        Running(Arc::clone(self))
    }

    /// Nobody waits for this window any more. The step that runs ends, if it is for no other. To be
    /// called when the engine has the command to forget the window.
    pub fn cancel(&self, window: u64) {
        let mut waiting = self.lock();
        if waiting.contains(&window) {
            waiting.retain(|id| *id != window);
            if waiting.is_empty() {
                self.flag.raise();
            }
        }
    }

    /// The step that runs ends, and all later ones.
    pub fn stop(&self) {
        let _waiting = self.lock();
        self.stopped.store(true, Ordering::Relaxed);
        self.flag.raise();
    }

    /// The result of a step, if it was not to end before it was there.
    ///
    /// # Errors
    ///
    /// The step's own, or [`StepError::Interrupted`].
    pub(super) fn unless<T>(&self, result: candle_core::Result<T>) -> Result<T, StepError> {
        match self.flag.is_raised() {
            true => Err(StepError::Interrupted),
            false => Ok(result?),
        }
    }

    /// Whether [`Interrupt::stop`] was called.
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        // A list of numbers is right after every statement.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step that runs.
pub struct Running(Arc<Interrupt>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.clear();
        if !self.0.stopped() {
            self.0.flag.lower();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_ends_when_the_last_of_its_windows_is_given_up() {
        let interrupt = Arc::new(Interrupt::default());
        interrupt.cancel(1);
        assert!(!interrupt.flag().is_raised(), "no step runs");
        let step = interrupt.begin(vec![1, 2]);
        interrupt.cancel(3);
        interrupt.cancel(1);
        interrupt.cancel(1);
        assert!(!interrupt.flag().is_raised(), "another one waits for it");
        interrupt.cancel(2);
        assert!(interrupt.flag().is_raised());
        drop(step);
        assert!(!interrupt.flag().is_raised(), "the next step runs");
        let step = interrupt.begin(vec![4]);
        interrupt.stop();
        drop(step);
        assert!(interrupt.flag().is_raised() && interrupt.stopped());
    }
}
