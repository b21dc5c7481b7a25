//! The worker's access to the text pad and the held video, which outlive it.

use std::sync::{Arc, Mutex};

use super::hold::HeldBuffers;
use super::imp::lock;
use super::text::Text;

/// Access to an object that outlives the worker. After it is closed, calls do nothing: a worker
/// that the element could not wait for must not touch the next run.
pub(super) struct Outlet<T>(Mutex<Option<Arc<T>>>);

impl<T> Outlet<T> {
    fn new(to: Arc<T>) -> Self {
        Self(Mutex::new(Some(to)))
    }

    /// Calls `call` with the object under the outlet's lock; `None` once closed. The call must not
    /// wait.
    pub(super) fn with<R>(&self, call: impl FnOnce(&T) -> R) -> Option<R> {
        lock(&self.0).as_deref().map(call)
    }
}

/// The outlets of one run.
#[derive(Clone)]
pub(super) struct Outlets {
    pub(super) text: Arc<Outlet<Text>>,
    pub(super) hold: Arc<Outlet<HeldBuffers>>,
}

impl Outlets {
    pub(super) fn new(text: Arc<Text>, hold: Arc<HeldBuffers>) -> Self {
        Self {
            text: Arc::new(Outlet::new(text)),
            hold: Arc::new(Outlet::new(hold)),
        }
    }

    /// Cuts the worker off.
    pub(super) fn close(&self) {
        lock(&self.text.0).take();
        lock(&self.hold.0).take();
    }
}
