//! Requests without a terminal message. Only this module ends a request, by exactly one.
//!
//! Until its window closes, requests are kept together ([`PendingRequests`]), then one by one
//! ([`PendingRequest`]). Ending a request consumes it. One that is lost, by a panic for instance,
//! ends when it is dropped. In the backend `EventSink` does the same for the terminal event.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use qwen3_vl_core::event::Answer;
use qwen3_vl_core::model::ModelInfo;

use super::publish::{Outcome, Publisher, WindowEvent};
use crate::message::{Reason, Request, RequestId, WindowInfo};

/// The message of a request that is lost.
const LOST: &str = "it was lost in the element";

/// A request without a terminal message.
pub(super) struct PendingRequest {
    request: Request,
    publisher: Arc<Publisher>,
    ended: bool,
}

impl PendingRequest {
    pub(super) fn id(&self) -> RequestId {
        self.request.id()
    }

    pub(super) fn prompt(&self) -> &str {
        &self.request.prompt
    }

    /// Publishes the token at `index` of its answer.
    pub(super) fn token(&self, index: u32, id: u32, text: &str) {
        let token = self.request.token(index, id, text);
        self.publisher.publish(&WindowEvent::Token(&token));
    }

    /// Ends it with an answer, in this epoch of the stream. `late` is the time between the arrival
    /// of the window's last frame and its hand-over to the backend.
    pub(super) fn described(
        mut self,
        answer: &Answer,
        model: &ModelInfo,
        late: Duration,
        epoch: u64,
    ) {
        let message = self.request.description(answer, model, late);
        self.end(&message, Outcome::Described { epoch });
    }

    /// Ends it without an answer. Without a `message` it is the reason's default.
    pub(super) fn dropped(mut self, reason: Reason, message: Option<&str>) {
        self.end_without(reason, message);
    }

    fn end_without(&mut self, reason: Reason, message: Option<&str>) {
        let message = message.or_else(|| reason.remedy());
        let dropped = self.request.dropped(reason, message);
        self.end(&dropped, Outcome::Dropped { reason, message });
    }

    fn end(&mut self, message: &gst::Structure, outcome: Outcome<'_>) {
        self.ended = true;
        let request = &self.request;
        self.publisher.publish(&WindowEvent::Ended {
            request,
            message,
            outcome,
        });
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if !self.ended {
            self.end_without(Reason::Error, Some(LOST));
        }
    }
}

/// The requests of an open window.
pub(super) struct PendingRequests {
    window: Arc<WindowInfo>,
    /// Their numbers and prompts, in order.
    requests: VecDeque<(u64, String)>,
    publisher: Arc<Publisher>,
}

impl PendingRequests {
    pub(super) fn new(
        window: WindowInfo,
        requests: impl IntoIterator<Item = (u64, String)>,
        publisher: Arc<Publisher>,
    ) -> Self {
        Self {
            window: Arc::new(window),
            requests: requests.into_iter().collect(),
            publisher,
        }
    }

    pub(super) fn window(&self) -> &WindowInfo {
        &self.window
    }

    pub(super) fn window_mut(&mut self) -> &mut WindowInfo {
        // Not shared before the first `pop`, so this does not copy.
        Arc::make_mut(&mut self.window)
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        self.requests.iter().map(|(number, _)| *number).collect()
    }

    pub(super) fn prompts(&self) -> impl Iterator<Item = &str> {
        self.requests.iter().map(|(_, prompt)| prompt.as_str())
    }

    /// Removes the next request.
    pub(super) fn pop(&mut self) -> Option<PendingRequest> {
        let (number, prompt) = self.requests.pop_front()?;
        let request = Request {
            window: self.window.clone(),
            number,
            prompt,
        };
        Some(PendingRequest {
            request,
            publisher: self.publisher.clone(),
            ended: false,
        })
    }

    /// Ends all of them without an answer.
    pub(super) fn dropped(mut self, reason: Reason, message: Option<&str>) {
        while let Some(request) = self.pop() {
            request.dropped(reason, message);
        }
    }
}

impl Drop for PendingRequests {
    fn drop(&mut self) {
        while let Some(request) = self.pop() {
            drop(request);
        }
    }
}

#[cfg(test)]
mod tests;
