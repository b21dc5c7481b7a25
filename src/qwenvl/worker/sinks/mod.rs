//! Where news of windows goes, a file for each place.

mod bus;
mod hold;
mod log;
mod meta;
mod signal;
mod statistics;
mod text;

use std::sync::Arc;

use super::publish::Sink;
use crate::qwenvl::QwenVL;
use crate::qwenvl::outlets::Outlets;
use crate::qwenvl::session::Session;

/// All of them, in the order in which they hear of an event.
pub(super) fn all(
    element: &QwenVL,
    session: &Arc<Session>,
    outlets: &Outlets,
) -> Vec<Box<dyn Sink>> {
    let (element, session) = (|| element.clone(), || session.clone());
    vec![
        // Before the message: a handler that reads `stats` finds the window in it.
        Box::new(statistics::Statistics { session: session() }),
        Box::new(log::Log { element: element() }),
        // Before the message: when that is there, so is the description on the next buffer.
        Box::new(meta::Meta {
            session: session(),
            hold: outlets.hold.clone(),
        }),
        Box::new(bus::Bus {
            element: element(),
            session: session(),
        }),
        // After the message: it is there when its text and its video come.
        Box::new(text::TextPad {
            text: outlets.text.clone(),
        }),
        Box::new(hold::HeldVideo {
            hold: outlets.hold.clone(),
        }),
        // Last: a handler may keep the worker, and everything else has been told by then.
        Box::new(signal::Signal {
            element: element(),
            session: session(),
        }),
    ]
}

/// Runs what may be code of the application, for as long as that takes. Threads that wait for the
/// worker know of it by [`Session::telling`].
fn tell_application(session: &Session, tell: impl FnOnce()) {
    struct Telling<'a>(&'a Session);
    impl Drop for Telling<'_> {
        fn drop(&mut self) {
            self.0.telling(false);
        }
    }
    session.telling(true);
    let _telling = Telling(session);
    tell();
}
