//! The sink of a request's events, which sends exactly one terminal event.

use crate::event::Event;
use crate::failure::Failure;

type Receive = Box<dyn FnMut(Event) + Send>;

/// Gives a request's events to its caller, in order, on a thread of the backend. Exactly one of
/// them is terminal: the first terminal one that is sent or, if the sink is dropped before, one
/// that says so.
pub struct EventSink {
    receive: Option<Receive>,
    /// Whether a drop means that the request was cancelled; else it was lost.
    cancels: bool,
}

impl EventSink {
    /// A sink that gives events to `receive`, which must not block.
    pub fn new(receive: impl FnMut(Event) + Send + 'static) -> Self {
        Self {
            receive: Some(Box::new(receive)),
            cancels: false,
        }
    }

    /// Makes the sink send [`Event::Cancelled`] when it is dropped: for a backend that drops
    /// cancelled requests, wherever they are (in a queue, in a sequence, at shutdown).
    #[must_use]
    pub fn cancels(self) -> Self {
        self.with(true)
    }

    /// Makes the sink send [`Failure::Fatal`] when it is dropped, as a new one does: a backend that
    /// loses a request cannot be trusted with others.
    #[must_use]
    pub fn loses(self) -> Self {
        self.with(false)
    }

    fn with(mut self, cancels: bool) -> Self {
        self.cancels = cancels;
        self
    }

    /// Sends an event, unless the terminal one has been sent.
    pub fn send(&mut self, event: Event) {
        if event.is_terminal() {
            if let Some(mut receive) = self.receive.take() {
                receive(event);
            }
        } else if let Some(receive) = &mut self.receive {
            receive(event);
        }
    }

    /// Whether the terminal event has been sent.
    pub fn ended(&self) -> bool {
        self.receive.is_none()
    }
}

impl Drop for EventSink {
    fn drop(&mut self) {
        self.send(match self.cancels {
            true => Event::Cancelled,
            false => Event::Failed(Failure::Fatal("it lost a request".into())),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn one_terminal_event() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let make = || {
            let seen = seen.clone();
            EventSink::new(move |event| seen.lock().unwrap().push(format!("{event:?}")))
        };
        let mut sink = make();
        let token = |id| Event::Token {
            id,
            text: "a".into(),
        };
        sink.send(token(1));
        sink.send(Event::Cancelled);
        sink.send(token(2));
        assert!(sink.ended());
        drop(sink);
        drop(make());
        drop(make().cancels());
        drop(make().cancels().loses());
        assert_eq!(
            *seen.lock().unwrap(),
            [
                "Token { id: 1, text: \"a\" }",
                "Cancelled",
                "Failed(Fatal(\"it lost a request\"))",
                "Cancelled",
                "Failed(Fatal(\"it lost a request\"))",
            ]
        );
    }
}
