//! The text pad.

use std::sync::Arc;

use crate::message;
use crate::qwenvl::imp::CAT;
use crate::qwenvl::outlets::Outlet;
use crate::qwenvl::text::Text;
use crate::qwenvl::worker::publish::{Outcome, Sink, WindowEvent};

pub(super) struct TextPad {
    pub(super) text: Arc<Outlet<Text>>,
}

impl Sink for TextPad {
    fn hear(&self, event: &WindowEvent<'_>) {
        let lost = self.text.with(|text| match event {
            WindowEvent::Opened {
                window, requests, ..
            } => {
                text.opened(window.id, requests, window.start);
                false
            }
            WindowEvent::Ended {
                request,
                message,
                outcome,
            } => {
                let said = (message::text(message), request.window.end);
                let described = matches!(outcome, Outcome::Described { .. });
                text.ended(request.id(), described.then_some(said))
            }
            WindowEvent::Watermark { reached, .. } => {
                text.advance_watermark(*reached);
                false
            }
            WindowEvent::Mark(mark) => {
                text.mark((*mark).clone());
                false
            }
            WindowEvent::Closed { .. }
            | WindowEvent::Token(_)
            | WindowEvent::Late
            | WindowEvent::Part(_)
            | WindowEvent::Finished => false,
        });
        // Without the outlet's lock: a log function of the application may do anything.
        if lost == Some(true) {
            gst::warning!(CAT, "The text pad's peer is too slow: a text is lost");
        }
    }
}
