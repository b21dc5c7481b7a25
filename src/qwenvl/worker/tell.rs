//! What becomes of windows, and who is told: each ends in one message.

use std::panic::{self, AssertUnwindSafe};

use gst::glib;
use gst::prelude::*;
use qwen3_vl_core::event;
use qwen3_vl_core::failure::Failure;

use super::window::{Asked, OpenWindow};
use super::{Fatal, Worker};
use crate::message::{self, Reason, Request};
use crate::qwenvl::imp::CAT;
use crate::qwenvl::signals;
use crate::qwenvl::stats::count;

impl Worker {
    pub(super) fn event(&mut self, id: u64, event: event::Event) -> Result<(), Fatal> {
        if self.session.epoch() != self.epoch {
            // Flushed meanwhile; the command that drops the window is on its way.
            return Ok(());
        }
        if let event::Event::Failed(Failure::Fatal(text)) = event {
            let text = format!("The engine failed: {text}");
            return Err(Fatal(glib::Error::new(gst::LibraryError::Failed, &text)));
        }
        let index = self
            .asked
            .iter()
            .position(|asked| asked.request.window_id == id);
        if let event::Event::Token { id, text } = event {
            if let Some(asked) = index.and_then(|index| self.asked.get_mut(index)) {
                let structure = asked.request.token(asked.tokens, id, &text);
                asked.tokens = asked.tokens.saturating_add(1);
                self.post(structure);
            }
            return Ok(());
        }
        match index.and_then(|index| self.asked.get_mut(index)) {
            Some(asked) => asked.end = Some(event),
            None => self.ended_early(id, event),
        }
        self.tell_ended();
        Ok(())
    }

    /// Tells what has become of the oldest windows: they are told in their order, whichever is
    /// answered first.
    fn tell_ended(&mut self) {
        // What the application's handlers do with one may have ended the rest.
        while !self.session.is_stopping()
            && self.asked.front().is_some_and(|asked| asked.end.is_some())
            && let Some(mut asked) = self.asked.pop_front()
            && let Some(event) = asked.end.take()
        {
            self.tell(&asked, event);
        }
    }

    fn tell(&self, asked: &Asked, event: event::Event) {
        let id = asked.request.window_id;
        match (event, &self.backend) {
            (event::Event::Answer(answer), Some(backend)) => {
                let structure = asked
                    .request
                    .description(&answer, backend.model(), asked.late);
                self.session.count(|stats| count(&mut stats.described));
                gst::info!(
                    CAT,
                    obj = self.element,
                    "window {id} is described: {structure}"
                );
                let mut holds = false;
                self.outlets.hold(|hold| holds = hold.active());
                if !holds {
                    self.session.attach(self.epoch, structure.clone());
                }
                self.post(structure.clone());
                let text = (message::text(&structure), asked.request.end);
                self.outlets.text(|to| to.ended(id, Some(text)));
                self.outlets
                    .hold(|hold| hold.ended(id, Some(structure.clone())));
                self.tell_application(|| signals::description(&self.element, &structure));
            }
            (event::Event::Failed(error), _) => {
                self.post_dropped(&asked.request, reason(&error), Some(&error.to_string()));
            }
            _ => self.post_dropped(&asked.request, Reason::Cancelled, None),
        }
    }

    /// A terminal event for a window that does not wait for one: it is open, or dropped already.
    fn ended_early(&mut self, id: u64, event: event::Event) {
        if !self.open.contains_key(&id) {
            self.session.count(|stats| count(&mut stats.late));
            return;
        }
        match event {
            event::Event::Failed(error) => {
                self.drop_open(id, reason(&error), Some(&error.to_string()));
            }
            _ => self.drop_open(id, Reason::Cancelled, None),
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
                self.tell(&asked, event);
                continue;
            }
            // The backend may be what has just panicked.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| asked.cancel()));
            self.post_dropped(&asked.request, reason, message);
        }
        for OpenWindow {
            request, target, ..
        } in std::mem::take(&mut self.open).into_values()
        {
            let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(target)));
            self.post_dropped(&request, reason, message);
        }
    }

    pub(super) fn drop_open(&mut self, id: u64, reason: Reason, message: Option<&str>) {
        if let Some(window) = self.open.remove(&id) {
            self.post_dropped(&window.request, reason, message);
        }
    }

    pub(super) fn post_dropped(&self, request: &Request, reason: Reason, message: Option<&str>) {
        let id = request.window_id;
        let message = message.or_else(|| reason.remedy());
        let said = message.unwrap_or("nobody waits for it");
        match reason {
            Reason::Flush | Reason::Cancelled => {
                gst::info!(CAT, obj = self.element, "window {id} is dropped: {said}");
            }
            _ => {
                let reason = reason.as_str();
                gst::warning!(
                    CAT,
                    obj = self.element,
                    "window {id} is dropped ({reason}): {said}"
                );
            }
        }
        self.session.count(|stats| count(&mut stats.dropped));
        self.post(request.dropped(reason, message));
        self.outlets.text(|text| text.ended(id, None));
        self.outlets.hold(|hold| hold.ended(id, None));
    }

    fn post(&self, structure: gst::Structure) {
        gst::debug!(CAT, obj = self.element, "{structure}");
        let message = gst::message::Element::builder(structure)
            .src(&self.element)
            .build();
        // Fails without a bus only, and then no one reads messages.
        self.tell_application(|| drop(self.element.post_message(message)));
    }

    /// Runs what may be code of the application: it takes as long as it takes.
    fn tell_application(&self, tell: impl FnOnce()) {
        self.session.telling(true);
        tell();
        self.session.telling(false);
    }
}

/// How a failure of the backend is told.
pub(super) fn reason(error: &Failure) -> Reason {
    match error {
        Failure::Full(_) => Reason::Overload,
        Failure::Invalid(_) | Failure::Unavailable(_) | Failure::Fatal(_) => Reason::Error,
    }
}
