//! A window's way back to its caller, which closes itself.

use crate::backend::{Event, EventSink};

/// Sends events, of which exactly one is terminal: the first, or [`Event::Cancelled`] when it is
/// dropped without one, wherever that happens (in the queue, in a sequence, at shutdown).
pub struct Sink(Option<EventSink>);

impl Sink {
    /// Takes over a caller's sink.
    pub fn new(sink: EventSink) -> Self {
        Self(Some(sink))
    }

    /// Sends an event, unless the terminal one has been sent.
    pub fn send(&mut self, event: Event) {
        if event.is_terminal() {
            if let Some(mut sink) = self.0.take() {
                sink(event);
            }
        } else if let Some(sink) = &mut self.0 {
            sink(event);
        }
    }

    /// Whether the terminal event has been sent.
    pub fn ended(&self) -> bool {
        self.0.is_none()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.send(Event::Cancelled);
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
            Sink::new(Box::new(move |event| {
                seen.lock().unwrap().push(format!("{event:?}"))
            }))
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
        assert_eq!(
            *seen.lock().unwrap(),
            ["Token { id: 1, text: \"a\" }", "Cancelled", "Cancelled"]
        );
    }
}
