//! The sinks of window events, one file each.

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

/// All sinks, in the order in which they get an event.
pub(super) fn all(
    element: &QwenVL,
    session: &Arc<Session>,
    outlets: &Outlets,
) -> Vec<Box<dyn Sink>> {
    let (element, session) = (|| element.clone(), || session.clone());
    vec![
        // Before the message, so that a handler that reads `stats` finds the window counted.
        Box::new(statistics::Statistics { session: session() }),
        Box::new(log::Log { element: element() }),
        // Before the message, so that the next buffer after it carries the description.
        Box::new(meta::Meta {
            session: session(),
            hold: outlets.hold.clone(),
        }),
        Box::new(bus::Bus {
            element: element(),
            session: session(),
        }),
        // After the message, so that it is posted before its text and its video are pushed.
        Box::new(text::TextPad {
            text: outlets.text.clone(),
        }),
        Box::new(hold::HeldVideo {
            hold: outlets.hold.clone(),
        }),
        // Last, because a handler may block the worker.
        Box::new(signal::Signal {
            element: element(),
            session: session(),
        }),
    ]
}

/// Makes a call that may run a handler of the application, which may take any time. The session
/// knows of it, for the threads that wait for the worker.
fn call_application(session: &Session, call: impl FnOnce()) {
    struct InHandler<'a>(&'a Session);
    impl Drop for InHandler<'_> {
        fn drop(&mut self) {
            self.0.set_in_handler(false);
        }
    }
    session.set_in_handler(true);
    let _in_handler = InHandler(session);
    call();
}
