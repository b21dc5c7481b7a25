//! Descriptions on the next buffer. Held video has them on the window's own buffers instead.

use std::sync::Arc;

use crate::qwenvl::hold::HeldBuffers;
use crate::qwenvl::outlets::Outlet;
use crate::qwenvl::session::Session;
use crate::qwenvl::worker::publish::{Outcome, Sink, WindowEvent};

pub(super) struct Meta {
    pub(super) session: Arc<Session>,
    pub(super) hold: Arc<Outlet<HeldBuffers>>,
}

impl Sink for Meta {
    fn hear(&self, event: &WindowEvent<'_>) {
        if let WindowEvent::Ended {
            message,
            outcome: Outcome::Described { epoch },
            ..
        } = event
            && self.hold.with(HeldBuffers::active) != Some(true)
        {
            self.session.attach(*epoch, (*message).clone());
        }
    }
}
