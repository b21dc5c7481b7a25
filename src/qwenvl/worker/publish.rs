//! The events of windows, each published once to all sinks.

use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use gst::glib;

use crate::message::{Reason, Request, WindowInfo};
use crate::qwenvl::failure;
use crate::qwenvl::hold::StreamPosition;
use crate::qwenvl::text::Mark;

/// An event of a window or a request.
pub(super) enum WindowEvent<'a> {
    /// A window opens.
    Opened {
        window: &'a WindowInfo,
        /// Numbers of its requests, in order.
        requests: &'a [u64],
        start: StreamPosition,
        /// Running time in nanoseconds after its last frame.
        end: u64,
    },
    /// A window is complete, and its requests go to the backend. Wait for its answers for `timeout`
    /// at most, `None` being for ever.
    Closed {
        window: u64,
        timeout: Option<Duration>,
    },
    /// A token of an answer, as `qwenvl/token`.
    Token(&'a gst::Structure),
    /// A request ended, with this terminal message.
    Ended {
        request: &'a Request,
        message: &'a gst::Structure,
        outcome: Outcome<'a>,
    },
    /// The backend ended a request that already has its terminal message, or a window whose
    /// requests have.
    Late,
    /// The stream has come to the running time `reached`, and no window opens before `next`.
    Watermark {
        reached: gst::ClockTime,
        next: StreamPosition,
    },
    /// Another part of the stream begins.
    Part(u64),
    /// An event of the text stream, behind the windows before it.
    Mark(&'a Mark),
    /// No window opens after this.
    Finished,
}

/// How a request ended.
#[derive(Clone, Copy)]
pub(super) enum Outcome<'a> {
    /// With an answer, in this epoch of the stream.
    Described { epoch: u64 },
    /// Without one.
    Dropped {
        reason: Reason,
        message: Option<&'a str>,
    },
}

/// A receiver of window events.
pub(super) trait Sink: Send + Sync {
    /// Handles an event, with no lock held. It must not block, except in a handler of the
    /// application.
    fn hear(&self, event: &WindowEvent<'_>);
}

/// Gives every event to every sink, in the sinks' order.
pub(super) struct Publisher {
    sinks: Vec<Box<dyn Sink>>,
    failed: Box<dyn Fn(&glib::Error) + Send + Sync>,
}

impl Publisher {
    /// A panic in a sink goes to `failed`, after the other sinks have had the event.
    pub(super) fn new(
        sinks: Vec<Box<dyn Sink>>,
        failed: impl Fn(&glib::Error) + Send + Sync + 'static,
    ) -> Self {
        let failed = Box::new(failed);
        Self { sinks, failed }
    }

    pub(super) fn publish(&self, event: &WindowEvent<'_>) {
        let mut panicked = None;
        for sink in &self.sinks {
            let heard = panic::catch_unwind(AssertUnwindSafe(|| sink.hear(event)));
            panicked = panicked.or(heard.err());
        }
        if let Some(panic) = panicked {
            (self.failed)(&failure::panicked("the worker", &*panic));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    impl<F: Fn(&WindowEvent<'_>) + Send + Sync> Sink for F {
        fn hear(&self, event: &WindowEvent<'_>) {
            self(event);
        }
    }

    #[test]
    fn a_panic_in_a_sink_is_one_error_and_the_others_hear_all() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let note = |what: &'static str| {
            let heard = heard.clone();
            move |_: &WindowEvent<'_>| heard.lock().unwrap().push(what.to_owned())
        };
        let sinks: [Box<dyn Sink>; 4] = [
            Box::new(note("first")),
            Box::new(|_: &WindowEvent<'_>| panic!("on purpose")),
            Box::new(|_: &WindowEvent<'_>| panic!("again")),
            Box::new(note("last")),
        ];
        let errors = heard.clone();
        let publisher = Publisher::new(sinks.into(), move |error| {
            errors.lock().unwrap().push(error.message().to_owned());
        });
        publisher.publish(&WindowEvent::Part(0));
        publisher.publish(&WindowEvent::Finished);
        let error = "Panicked in the worker: on purpose";
        let once = ["first", "last", error];
        assert_eq!(*heard.lock().unwrap(), [once, once].concat());
    }
}
