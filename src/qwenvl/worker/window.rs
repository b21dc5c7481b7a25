//! One window at the backend, from its opening to its requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qwen3_vl_core::backend::{LostSink, RequestHandle, Window};
use qwen3_vl_core::frames::{Frame, Rounding, Size, VisionInput};
use qwen3_vl_core::model::ModelInfo;
use qwen3_vl_core::request::Request;
use qwen3_vl_core::window::Pairs;
use qwen3_vl_core::{EventSink, event};

use super::picture::{Converter, Picture, PictureError};
use super::requests::{PendingRequest, PendingRequests};
use crate::message::RequestId;
use crate::qwenvl::sample::{Plan, Sample, utc};
use crate::qwenvl::session::Session;
use crate::qwenvl::settings::{Mode, Overload};

/// The target of a window's frames.
pub(super) enum Target {
    /// The backend, with the size of the frames and its rounding.
    Input {
        input: Box<dyn Window>,
        size: (Size, Rounding),
    },
    /// None: the model was not loaded when the window opened.
    Nowhere,
}

/// A window that still takes frames.
pub(super) struct OpenWindow {
    pub(super) requests: PendingRequests,
    pub(super) target: Target,
    pub(super) plan: Arc<Plan>,
    pub(super) overload: Overload,
    start: gst::ClockTime,
    /// Running time of the last frame.
    last: gst::ClockTime,
    pairs: Pairs<Frame>,
    arrived: Instant,
    pushed: Option<Instant>,
}

impl OpenWindow {
    pub(super) fn new(requests: PendingRequests, sample: &Sample) -> Self {
        Self {
            requests,
            target: Target::Nowhere,
            plan: sample.plan.clone(),
            overload: sample.overload,
            start: sample.pts,
            last: sample.running_time,
            pairs: Pairs::default(),
            arrived: sample.arrived,
            pushed: None,
        }
    }

    /// Takes a frame.
    pub(super) fn push(
        &mut self,
        sample: &Sample,
        picture: &mut Picture<'_>,
        converter: &mut Converter,
    ) -> Result<(), PictureError> {
        let window = self.requests.window_mut();
        window.frames.push(sample.pts);
        self.last = sample.running_time;
        // rtph264depay loses the meta of key frames that come with parameter sets, so take any
        // frame's.
        window.utc = window.utc.or_else(|| {
            let since = self.start.absdiff(sample.pts).nseconds();
            utc(sample.frame.buffer())?.checked_sub(since)
        });
        self.arrived = sample.arrived;
        let Target::Input { input, size } = &mut self.target else {
            return Ok(());
        };
        // Media time, whatever the segment's rate.
        let seconds = self.start.absdiff(sample.pts);
        let frame = Frame {
            rgb: picture.at(*size, converter)?,
            size: size.0,
            seconds: seconds.nseconds() as f64 / 1e9,
        };
        let ready = match self.plan.settings.mode {
            Mode::Video => self.pairs.push(frame).map(VisionInput::Pair),
            Mode::Images => Some(VisionInput::Image(frame)),
        };
        if let Some(ready) = ready {
            input.push(ready);
            self.pushed = Some(Instant::now());
        }
        Ok(())
    }

    /// Running time where the window ends.
    pub(super) fn end(&self) -> gst::ClockTime {
        self.requests.window().end
    }

    /// Whether the window has a frame with a later due time.
    pub(super) fn is_after(&self, sample: &Sample) -> bool {
        sample.running_time < self.last
    }

    /// The stream ends or breaks at this running time.
    pub(super) fn cut(&mut self, at: Option<gst::ClockTime>) {
        let window = self.requests.window_mut();
        window.partial = true;
        let at = at.unwrap_or(self.last).max(self.last);
        window.end = window.end.min(at);
    }

    /// No more frames come. Returns the requests, and an odd last frame that has to be pushed
    /// before.
    pub(super) fn ask(self, model: &ModelInfo) -> (Vec<ToAsk>, Option<VisionInput>) {
        let settings = &self.plan.settings;
        let backend_request = |prompt: &str| Request {
            prompt: prompt.to_owned(),
            max_tokens: settings.max_tokens,
            sampling: settings.sampling_params(model),
            seed: settings.seed,
            emit_tokens: settings.emit_tokens,
            repetition_guard: settings.repetition_guard,
        };
        let odd = self.pairs.finish().map(VisionInput::Pair);
        let pushed = match (&odd, self.pushed) {
            (None, Some(pushed)) => pushed,
            _ => Instant::now(),
        };
        let late = pushed.saturating_duration_since(self.arrived);
        let mut requests = self.requests;
        let asks = std::iter::from_fn(|| requests.pop()).map(|request| {
            let backend_request = backend_request(request.prompt());
            let asked = Asked {
                request,
                handle: None,
                tokens: 0,
                late,
                end: None,
            };
            (asked, backend_request)
        });
        (asks.collect(), odd)
    }
}

/// A request of the element, and the backend's request for it.
pub(super) type ToAsk = (Asked, Request);

/// A request that waits for its answer, or for the terminal messages of the requests before it.
pub(super) struct Asked {
    pub(super) request: PendingRequest,
    pub(super) handle: Option<Box<dyn RequestHandle>>,
    /// Tokens of the answer so far.
    pub(super) tokens: u32,
    /// From the arrival of the window's last frame to its push to the backend.
    pub(super) late: Duration,
    /// The backend's terminal event, while a request before this one has none.
    pub(super) end: Option<event::Event>,
}

impl Asked {
    /// Asks the backend to cancel the request.
    pub(super) fn cancel(&self) {
        if let Some(handle) = &self.handle {
            handle.cancel();
        }
    }
}

/// Sends a request's events to the session.
pub(super) fn event_sink(session: Arc<Session>, request: RequestId) -> EventSink {
    EventSink::new(move |event| session.event(request, event))
}

/// Tells the session of a window that the backend lost before its first request.
pub(super) fn lost_sink(session: Arc<Session>, window: u64) -> LostSink {
    Box::new(move |failure| session.lost(window, failure))
}
