//! Element messages. A sync handler of the application's bus runs here.

use std::sync::Arc;

use gst::prelude::*;

use super::call_application;
use crate::qwenvl::QwenVL;
use crate::qwenvl::imp::CAT;
use crate::qwenvl::session::Session;
use crate::qwenvl::worker::publish::{Sink, WindowEvent};

pub(super) struct Bus {
    pub(super) element: QwenVL,
    pub(super) session: Arc<Session>,
}

impl Sink for Bus {
    fn hear(&self, event: &WindowEvent<'_>) {
        let (WindowEvent::Token(structure)
        | WindowEvent::Ended {
            message: structure, ..
        }) = event
        else {
            return;
        };
        gst::debug!(CAT, obj = self.element, "{structure}");
        let message = gst::message::Element::builder((*structure).clone())
            .src(&self.element)
            .build();
        // Fails without a bus only, where no message is read.
        call_application(&self.session, || drop(self.element.post_message(message)));
    }
}
