//! The backend's events of requests, and the order of the terminal messages that follow.

use std::panic::{self, AssertUnwindSafe};

use gst::glib;
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;

use super::publish::WindowEvent;
use super::window::{Asked, OpenWindow};
use super::{Fatal, Worker};
use crate::message::{Reason, RequestId};

impl Worker {
    /// Handles an event of a request.
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
        self.end_oldest();
        Ok(())
    }

    /// The backend lost a window. If its requests have gone to the backend by now, they fail on
    /// their own.
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

    /// Whether the stream was flushed: then the command that drops the windows is in the queue.
    fn is_flushed(&self) -> bool {
        self.session.epoch() != self.epoch
    }

    /// Ends the oldest requests that have their terminal event: terminal messages come in the order
    /// of the requests, whichever is answered first.
    fn end_oldest(&mut self) {
        // A handler of the application may have stopped the element.
        while !self.session.is_stopping()
            && self.asked.front().is_some_and(|asked| asked.end.is_some())
            && let Some(mut asked) = self.asked.pop_front()
            && let Some(event) = asked.end.take()
        {
            self.end_by(asked, event);
        }
    }

    /// Ends a request by its terminal event.
    fn end_by(&self, asked: Asked, event: Event) {
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
            // This one has its answer, and waited for another request only.
            if reason == Reason::EosTimeout
                && let Some(event) = asked.end.take()
            {
                self.end_by(asked, event);
                continue;
            }
            // The backend may have caused the panic that led here.
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

    /// Drops an open window.
    pub(super) fn drop_open(&mut self, id: u64, reason: Reason, message: Option<&str>) {
        if let Some(window) = self.open.remove(&id) {
            window.requests.dropped(reason, message);
        }
    }

    /// Drops the unanswered requests of a closed window.
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

/// A fatal failure of the backend ends the element too.
fn fatal(failure: &Failure) -> Result<(), Fatal> {
    let Failure::Fatal(text) = failure else {
        return Ok(());
    };
    let text = format!("The engine failed: {text}");
    Err(Fatal(glib::Error::new(gst::LibraryError::Failed, &text)))
}

/// The reason that a failure of the backend has in `qwenvl/dropped`.
pub(super) fn reason(error: &Failure) -> Reason {
    match error {
        Failure::Full(_) => Reason::Overload,
        Failure::Invalid(_) | Failure::Unavailable(_) | Failure::Fatal(_) => Reason::Error,
    }
}
