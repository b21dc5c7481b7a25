//! Where news of windows goes besides bus and signal: to the text pad and to the held video.

use std::sync::Arc;
use std::sync::Mutex;

use super::hold::HeldBuffers;
use super::imp::lock;
use super::text::Text;

/// A worker's way to the text pad and the held video, which outlive it. Once closed it leads
/// nowhere: a worker that the element could not wait for must not speak into the next run.
pub(super) struct Outlets(Mutex<Option<(Arc<Text>, Arc<HeldBuffers>)>>);

impl Outlets {
    pub(super) fn new(text: Arc<Text>, hold: Arc<HeldBuffers>) -> Self {
        Self(Mutex::new(Some((text, hold))))
    }

    /// Tells the text pad something, which never waits.
    pub(super) fn text(&self, tell: impl FnOnce(&Text)) {
        if let Some((text, _)) = &*lock(&self.0) {
            tell(text);
        }
    }

    /// Tells the held video something, which never waits.
    pub(super) fn hold(&self, tell: impl FnOnce(&HeldBuffers)) {
        if let Some((_, hold)) = &*lock(&self.0) {
            tell(hold);
        }
    }

    pub(super) fn close(&self) {
        lock(&self.0).take();
    }
}
