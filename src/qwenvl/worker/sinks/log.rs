//! GStreamer's log.

use crate::message::Reason;
use crate::qwenvl::QwenVL;
use crate::qwenvl::imp::CAT;
use crate::qwenvl::worker::publish::{Outcome, Sink, WindowEvent};

pub(super) struct Log {
    pub(super) element: QwenVL,
}

impl Sink for Log {
    fn hear(&self, event: &WindowEvent<'_>) {
        let WindowEvent::Ended {
            request,
            message: structure,
            outcome,
        } = event
        else {
            return;
        };
        let id = request.window.id;
        match outcome {
            Outcome::Described { .. } => {
                gst::info!(
                    CAT,
                    obj = self.element,
                    "window {id} is described: {structure}"
                );
            }
            Outcome::Dropped { reason, message } => {
                let said = message.unwrap_or("its stream was flushed or stopped");
                if let Reason::Flush | Reason::Cancelled = reason {
                    gst::info!(CAT, obj = self.element, "window {id} is dropped: {said}");
                } else {
                    let reason = reason.as_str();
                    gst::warning!(
                        CAT,
                        obj = self.element,
                        "window {id} is dropped ({reason}): {said}"
                    );
                }
            }
        }
    }
}
