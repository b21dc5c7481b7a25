//! Ends a step that nobody waits for any more, from another thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::runner::StepError;
use crate::cpu::pool::Flag;

/// Says whether the step that runs is still wanted: the engine tells it which windows that step is
/// for, callers tell it what they have given up. Kernels look at its [`Flag`].
#[derive(Debug, Default)]
pub struct Interrupt {
    flag: Flag,
    stopped: AtomicBool,
    /// Windows that the step that runs is for. Those without an [`Interest`] are always wanted.
    running: Mutex<Vec<Option<Arc<Interest>>>>,
}

/// How many wait for a window: who holds it open, and its requests.
#[derive(Debug, Default)]
pub struct Interest {
    waiters: AtomicUsize,
}

impl Interest {
    fn is_gone(&self) -> bool {
        self.waiters.load(Ordering::Relaxed) == 0
    }
}

/// Somebody who waits for a window, until it is dropped or gives up.
#[derive(Debug)]
pub struct Waiter {
    interrupt: Arc<Interrupt>,
    interest: Arc<Interest>,
    gave_up: AtomicBool,
}

impl Waiter {
    /// One more who waits for the window.
    pub fn new(interrupt: &Arc<Interrupt>, interest: &Arc<Interest>) -> Self {
        interest.waiters.fetch_add(1, Ordering::Relaxed);
        Self {
            interrupt: interrupt.clone(),
            interest: interest.clone(),
            gave_up: AtomicBool::new(false),
        }
    }

    /// Waits no more. The step that runs ends, if nobody else waits for it. To be called when the
    /// engine has the command to forget what was waited for.
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
    /// What kernels look at.
    pub fn flag(&self) -> &Flag {
        &self.flag
    }

    /// A step begins for these windows. It has ended when the result is dropped.
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

    /// The step that runs ends, and all later ones.
    pub fn stop(&self) {
        let _running = self.lock();
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

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Arc<Interest>>>> {
        // A list is right after every statement.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step that runs.
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
    fn a_step_ends_when_the_last_who_waits_for_its_windows_gives_up() {
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
        assert!(raised(), "nobody waits for it when it begins");
        drop(step);
        let step = interrupt.begin(vec![Some(windows[0].clone()), None]);
        assert!(!raised(), "one of its windows is always wanted");
        interrupt.stop();
        drop(step);
        assert!(raised() && interrupt.stopped());
    }
}
