//! A worker's ways to what outlives it: the text pad and the held video.

use std::sync::{Arc, Mutex};

use super::hold::HeldBuffers;
use super::imp::lock;
use super::text::Text;

/// A way to something that outlives the worker. Once closed it leads nowhere: a worker that the
/// element could not wait for must not speak into the next run.
pub(super) struct Outlet<T>(Mutex<Option<Arc<T>>>);

impl<T> Outlet<T> {
    fn new(to: Arc<T>) -> Self {
        Self(Mutex::new(Some(to)))
    }

    /// Tells it something, or asks it, which never waits; `None` once closed.
    pub(super) fn tell<R>(&self, tell: impl FnOnce(&T) -> R) -> Option<R> {
        lock(&self.0).as_deref().map(tell)
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

    pub(super) fn close(&self) {
        lock(&self.text.0).take();
        lock(&self.hold.0).take();
    }
}
