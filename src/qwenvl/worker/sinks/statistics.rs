//! The counters of the property `stats`.

use std::sync::Arc;

use crate::qwenvl::session::Session;
use crate::qwenvl::stats::count;
use crate::qwenvl::worker::publish::{Outcome, Sink, WindowEvent};

pub(super) struct Statistics {
    pub(super) session: Arc<Session>,
}

impl Sink for Statistics {
    fn hear(&self, event: &WindowEvent<'_>) {
        match event {
            WindowEvent::Ended { outcome, .. } => self.session.count(|stats| match outcome {
                Outcome::Described { .. } => count(&mut stats.described),
                Outcome::Dropped { .. } => count(&mut stats.dropped),
            }),
            WindowEvent::Late => self.session.count(|stats| count(&mut stats.late)),
            _ => (),
        }
    }
}
