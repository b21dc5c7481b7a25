//! The held video (`attach=window`).

use std::sync::Arc;

use crate::qwenvl::hold::{HeldBuffers, StreamPosition};
use crate::qwenvl::outlets::Outlet;
use crate::qwenvl::worker::publish::{Outcome, Sink, WindowEvent};

pub(super) struct HeldVideo {
    pub(super) hold: Arc<Outlet<HeldBuffers>>,
}

impl Sink for HeldVideo {
    fn hear(&self, event: &WindowEvent<'_>) {
        self.hold.with(|hold| match event {
            WindowEvent::Opened {
                window,
                requests,
                start,
                end,
            } => hold.opened(window.id, requests, *start, *end),
            WindowEvent::Closed { window, timeout } => hold.closed(*window, *timeout),
            WindowEvent::Ended {
                request,
                message,
                outcome,
            } => {
                let described = matches!(outcome, Outcome::Described { .. });
                hold.ended(request.id(), described.then(|| (*message).clone()));
            }
            WindowEvent::Watermark { next, .. } => hold.advance_watermark(*next),
            WindowEvent::Part(part) => {
                let (part, time) = (*part, 0);
                hold.advance_watermark(StreamPosition { part, time });
            }
            WindowEvent::Finished => hold.end_watermark(),
            WindowEvent::Token(_) | WindowEvent::Late | WindowEvent::Mark(_) => (),
        });
    }
}
