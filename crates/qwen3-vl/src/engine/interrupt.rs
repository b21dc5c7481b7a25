//! Interrupts a step whose windows have no waiters left, from another thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::runner::StepError;
use crate::cpu::pool::Flag;

/// Tracks whether the running step is still wanted. The engine registers the step's windows,
/// callers give up theirs, and kernels poll the [`Flag`].
#[derive(Debug, Default)]
pub struct Interrupt {
    flag: Flag,
    stopped: AtomicBool,
    /// Windows of the running step. A window without an [`Interest`] is always wanted.
    running: Mutex<Vec<Option<Arc<Interest>>>>,
}

/// Counts the waiters of a window: the caller that holds it open, and its requests.
#[derive(Debug, Default)]
pub struct Interest {
    waiters: AtomicUsize,
}

impl Interest {
    fn is_gone(&self) -> bool {
        self.waiters.load(Ordering::Relaxed) == 0
    }
}

/// Waits for a window until it is dropped or gives up.
#[derive(Debug)]
pub struct Waiter {
    interrupt: Arc<Interrupt>,
    interest: Arc<Interest>,
    gave_up: AtomicBool,
}

impl Waiter {
    /// Adds a waiter to the window.
    pub fn new(interrupt: &Arc<Interrupt>, interest: &Arc<Interest>) -> Self {
        interest.waiters.fetch_add(1, Ordering::Relaxed);
        Self {
            interrupt: interrupt.clone(),
            interest: interest.clone(),
            gave_up: AtomicBool::new(false),
        }
    }

    /// Stops waiting, and interrupts the running step if its windows have no other waiters. Call it
    /// after the command that cancels the wait has been sent to the engine.
    pub fn give_up(&self) {
        if !self.gave_up.swap(true, Ordering::Relaxed) {
            let running = self.interrupt.lock();
            self.interest.waiters.fetch_sub(1, Ordering::Relaxed);
            self.interrupt.raise_if_unwanted(&running);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Interrupt {
    /// The flag that kernels poll.
    pub fn flag(&self) -> &Flag {
        &self.flag
    }

    /// Begins a step for these windows. It ends when the result is dropped.
    pub fn begin(self: &Arc<Self>, windows: Vec<Option<Arc<Interest>>>) -> Running {
        let mut running = self.lock();
        *running = windows;
        self.raise_if_unwanted(&running);
        drop(running);
        Running(Arc::clone(self))
    }

    fn raise_if_unwanted(&self, running: &[Option<Arc<Interest>>]) {
        let is_gone = |window: &Option<Arc<Interest>>| window.as_ref().is_some_and(|w| w.is_gone());
        if !running.is_empty() && running.iter().all(is_gone) {
            self.flag.raise();
        }
    }

    /// Interrupts the running step and all later ones.
    pub fn stop(&self) {
        let _running = self.lock();
        self.stopped.store(true, Ordering::Relaxed);
        self.flag.raise();
    }

    /// The result of a step, unless the step was interrupted.
    ///
    /// # Errors
    ///
    /// [`StepError::Interrupted`], or else the step's own error.
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

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Arc<Interest>>>> {
        // Every statement leaves the list valid, so a poisoned lock is safe to use.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running step.
pub struct Running(Arc<Interrupt>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.0.lock();
        running.clear();
        if !self.0.stopped() {
            self.0.flag.lower();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_ends_when_the_last_waiter_for_its_windows_gives_up() {
        let interrupt = Arc::new(Interrupt::default());
        let windows = [(); 3].map(|()| Arc::new(Interest::default()));
        let waiter = |window: usize| Waiter::new(&interrupt, &windows[window]);
        let begin =
            |of: &[usize]| interrupt.begin(of.iter().map(|i| Some(windows[*i].clone())).collect());
        let raised = || interrupt.flag().is_raised();

        let (open, request, other, third) = (waiter(0), waiter(0), waiter(1), waiter(2));
        let step = begin(&[0, 1]);
        third.give_up();
        other.give_up();
        open.give_up();
        open.give_up();
        assert!(!raised(), "a request waits for it");
        let late = waiter(0);
        drop(request);
        assert!(!raised(), "a later request waits for it");
        late.give_up();
        assert!(raised());
        drop((step, late, open));
        assert!(!raised(), "the next step runs");

        let step = begin(&[0]);
        assert!(raised(), "it begins without a waiter");
        drop(step);
        let step = interrupt.begin(vec![Some(windows[0].clone()), None]);
        assert!(!raised(), "one of its windows is always wanted");
        interrupt.stop();
        drop(step);
        assert!(raised() && interrupt.stopped());
    }
}
