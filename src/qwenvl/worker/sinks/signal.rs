//! The signal `description`, whose handlers run here.

use std::sync::Arc;

use super::call_application;
use crate::qwenvl::session::Session;
use crate::qwenvl::worker::publish::{Outcome, Sink, WindowEvent};
use crate::qwenvl::{QwenVL, signals};

pub(super) struct Signal {
    pub(super) element: QwenVL,
    pub(super) session: Arc<Session>,
}

impl Sink for Signal {
    fn hear(&self, event: &WindowEvent<'_>) {
        if let WindowEvent::Ended {
            message,
            outcome: Outcome::Described { .. },
            ..
        } = event
        {
            call_application(&self.session, || {
                signals::description(&self.element, message);
            });
        }
    }
}
