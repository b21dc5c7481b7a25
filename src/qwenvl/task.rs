//! The tasks of pads that push from a thread of their own.

use std::panic::{self, AssertUnwindSafe};

use gst::prelude::*;
use gst::subclass::prelude::*;

use super::failure;
use super::imp::QwenVL;

impl QwenVL {
    /// Calls `turn` in the pad's task until that is paused or stopped. A panic ends it with an
    /// ERROR that names `place`.
    pub(super) fn start_task(
        &self,
        pad: &gst::Pad,
        place: &'static str,
        mut turn: impl FnMut(&Self, &gst::Pad) + Send + 'static,
    ) -> Result<(), gst::glib::BoolError> {
        let (element, weak) = (self.obj().downgrade(), pad.downgrade());
        pad.start_task(move || {
            let (Some(element), Some(pad)) = (element.upgrade(), weak.upgrade()) else {
                return;
            };
            let this = element.imp();
            if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| turn(this, &pad))) {
                this.fail(&failure::panicked(place, &*panic));
                let _ = pad.pause_task();
            }
        })
    }
}
