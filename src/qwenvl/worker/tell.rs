//! What the backend says of requests, and when it is told: each ends in one message.

use std::panic::{self, AssertUnwindSafe};

use gst::glib;
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;

use super::publish::WindowEvent;
use super::window::{Asked, OpenWindow};
use super::{Fatal, Worker};
use crate::message::{Reason, RequestId};

impl Worker {
    /// Something happened to a request.
    pub(super) fn event(&mut self, id: RequestId, event: Event) -> Result<(), Fatal> {
        if self.is_flushed() {
            return Ok(());
        }
        if let Event::Failed(failure) = &event {
            fatal(failure)?;
        }
        let asked = self.asked.iter_mut().find(|asked| asked.request.id() == id);
        match (asked, event) {
            (Some(asked), Event::Token { id, text }) => {
                asked.request.token(asked.tokens, id, &text);
                asked.tokens = asked.tokens.saturating_add(1);
            }
            (Some(asked), end) => asked.end = Some(end),
            (None, Event::Token { .. }) => (),
            (None, _) => self.publish(&WindowEvent::Late),
        }
        self.tell_ended();
        Ok(())
    }

    /// The backend lost a window. If that has been asked meanwhile, its requests fail on their
    /// own.
    pub(super) fn lost(&mut self, window: u64, failure: &Failure) -> Result<(), Fatal> {
        if self.is_flushed() {
            return Ok(());
        }
        fatal(failure)?;
        if self.open.contains_key(&window) {
            self.drop_open(window, reason(failure), Some(&failure.to_string()));
        } else {
            self.publish(&WindowEvent::Late);
        }
        Ok(())
    }

    /// Whether the stream was flushed; the command that drops the windows is on its way.
    fn is_flushed(&self) -> bool {
        self.session.epoch() != self.epoch
    }

    /// Tells what has become of the oldest requests: they are told in their order, whichever is
    /// answered first.
    fn tell_ended(&mut self) {
        // What the application's handlers do with one may have ended the rest.
        while !self.session.is_stopping()
            && self.asked.front().is_some_and(|asked| asked.end.is_some())
            && let Some(mut asked) = self.asked.pop_front()
            && let Some(event) = asked.end.take()
        {
            self.tell(asked, event);
        }
    }

    fn tell(&self, asked: Asked, event: Event) {
        match (event, &self.backend) {
            (Event::Answer(answer), Some(backend)) => {
                let Asked { request, late, .. } = asked;
                request.described(&answer, backend.model(), late, self.epoch);
            }
            (Event::Failed(error), _) => {
                let text = error.to_string();
                asked.request.dropped(reason(&error), Some(&text));
            }
            _ => asked.request.dropped(Reason::Cancelled, None),
        }
    }

    /// Ends all windows without an answer.
    pub(super) fn drop_all(&mut self, reason: Reason, message: Option<&str>) {
        if let Some(windows) = &mut self.windows {
            windows.clear();
        }
        for mut asked in std::mem::take(&mut self.asked) {
            // It only waited for the answer of another one.
            if reason == Reason::EosTimeout
                && let Some(event) = asked.end.take()
            {
                self.tell(asked, event);
                continue;
            }
            // The backend may be what has just panicked.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| asked.cancel()));
            asked.request.dropped(reason, message);
        }
        for OpenWindow {
            requests, target, ..
        } in std::mem::take(&mut self.open).into_values()
        {
            let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(target)));
            requests.dropped(reason, message);
        }
    }

    pub(super) fn drop_open(&mut self, id: u64, reason: Reason, message: Option<&str>) {
        if let Some(window) = self.open.remove(&id) {
            window.requests.dropped(reason, message);
        }
    }

    /// Ends the requests of an asked window that have no answer.
    pub(super) fn drop_unanswered(&mut self, window: u64, reason: Reason) {
        let of_window = |asked: &Asked| asked.request.id().window == window && asked.end.is_none();
        let asked = std::mem::take(&mut self.asked);
        let (dropped, kept): (Vec<_>, Vec<_>) = asked.into_iter().partition(of_window);
        self.asked = kept.into();
        for asked in dropped {
            asked.cancel();
            asked.request.dropped(reason, None);
        }
    }
}

/// A backend that is gone is the end of the element, too.
fn fatal(failure: &Failure) -> Result<(), Fatal> {
    let Failure::Fatal(text) = failure else {
        return Ok(());
    };
    let text = format!("The engine failed: {text}");
    Err(Fatal(glib::Error::new(gst::LibraryError::Failed, &text)))
}

/// How a failure of the backend is told.
pub(super) fn reason(error: &Failure) -> Reason {
    match error {
        Failure::Full(_) => Reason::Overload,
        Failure::Invalid(_) | Failure::Unavailable(_) | Failure::Fatal(_) => Reason::Error,
    }
}
