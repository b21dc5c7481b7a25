//! The element messages, and the structure that messages and metas share.
//!
//! | structure | when |
//! |---|---|
//! | `qwenvl/token` | a token of an answer, with `emit-tokens` |
//! | `qwenvl/description` | a window's answer; ends the request |
//! | `qwenvl/dropped` | a window without an answer and the reason; ends the request |
//!
//! Every (window-id, request-id) ends in exactly one of the last two. All fields, with their types
//! and units, are listed in `docs/messages.md`; the field [`JSON`] holds the others as JSON.
//! Programs in Rust read them as [`Description`] and [`Dropped`].
//!
//! ```
//! use gst::prelude::*;
//! use gstqwenvl::message::{self, Description, FinishReason};
//!
//! gst::init()?;
//! gstqwenvl::plugin_register_static()?;
//! let pipeline = gst::parse::launch(
//!     "videotestsrc num-buffers=100 ! video/x-raw,width=128,height=96,framerate=25/1 ! \
//!      qwenvl stream-id=gate ! fakesink",
//! )?;
//! pipeline.set_state(gst::State::Playing)?;
//! let mut texts = Vec::new();
//! for message in pipeline.bus().ok_or("no bus")?.iter_timed(gst::ClockTime::NONE) {
//!     match message.view() {
//!         gst::MessageView::Error(error) => return Err(error.error().into()),
//!         gst::MessageView::Eos(_) => break,
//!         _ => (),
//!     }
//!     let Some(s) = message.structure().filter(|s| s.has_name(message::DESCRIPTION)) else {
//!         continue;
//!     };
//!     let description = Description::try_from(s)?;
//!     assert_eq!(description.window.stream_id, "gate");
//!     assert_eq!(description.window.end_running_time, 4_000_000_000);
//!     assert_eq!(description.window.frame_pts.len(), 8);
//!     assert_eq!(description.finish_reason, FinishReason::Stop);
//!     // The same for readers without GStreamer's types.
//!     assert_eq!(serde_json::from_str::<Description>(s.get(message::JSON)?)?, description);
//!     texts.push(description.text);
//! }
//! pipeline.set_state(gst::State::Null)?;
//! assert_eq!(texts.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ids;
mod read;
mod typed;

use std::sync::Arc;
use std::time::Duration;

use qwen3_vl_core::event::Answer;
use qwen3_vl_core::model::ModelInfo;
use serde::{Deserialize, Serialize};

use crate::json;
use crate::qwenvl::time::stream_time;

pub(crate) use ids::RequestId;
pub use read::MessageError;
pub use typed::{Description, Dropped, FinishReason, Window};

/// Version of the fields. It changes when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;
/// Name of the structure with a token of an answer.
pub const TOKEN: &str = "qwenvl/token";
/// Name of the structure with an answer.
pub const DESCRIPTION: &str = "qwenvl/description";
/// Name of the structure that says that there is no answer.
pub const DROPPED: &str = "qwenvl/dropped";
/// Name of the field that holds all other fields as one JSON object, for readers without types.
pub const JSON: &str = "json-message";

/// Why a request of a window got no description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The engine could not keep up and the `overload` policy chose this window.
    Overload,
    /// Live frames came before the model was ready.
    Loading,
    /// The stream was flushed, by a seek for instance.
    Flush,
    /// The request, the engine or the element failed; the field `message` says how.
    Error,
    /// The element was stopped.
    Cancelled,
    /// The window holds too few frames.
    TooShort,
    /// A frame could not be mapped or converted.
    Unmappable,
    /// The answer did not come within `eos-timeout` after the end of the stream.
    EosTimeout,
}

impl Reason {
    /// The default `message`, which says what to do; `None` where no fault is behind it.
    pub(crate) fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Overload => Some(
                "the model does not keep up: lower fps, max-pixels or max-tokens, raise \
                 window-duration, or take a smaller model",
            ),
            Self::Loading => {
                Some("the model was not loaded yet: the first window begins when it is")
            }
            Self::TooShort => Some("it holds too few frames: raise window-duration or fps"),
            Self::EosTimeout => Some("the answer did not come within eos-timeout: raise it"),
            Self::Unmappable => Some("a frame could not be read: put videoconvert in front"),
            Self::Error => Some("it failed"),
            Self::Flush | Self::Cancelled => None,
        }
    }

    /// Name as it stands in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overload => "overload",
            Self::Loading => "loading",
            Self::Flush => "flush",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
            Self::TooShort => "too-short",
            Self::Unmappable => "unmappable",
            Self::EosTimeout => "eos-timeout",
        }
    }
}

/// The segment that a window's frames came in.
pub(crate) type Segment = Arc<gst::FormattedSegment<gst::ClockTime>>;

/// The fields of a window's messages that describe the window.
#[derive(Clone, Debug)]
pub(crate) struct WindowInfo {
    pub(crate) stream_id: String,
    pub(crate) id: u64,
    pub(crate) segment: Segment,
    /// Running time of the first frame.
    pub(crate) start: gst::ClockTime,
    /// Running time where the window ends.
    pub(crate) end: gst::ClockTime,
    /// Whether the window was cut short.
    pub(crate) partial: bool,
    /// PTS of every frame.
    pub(crate) frames: Vec<gst::ClockTime>,
    /// When the camera took the first frame, in nanoseconds since 1970 (UTC).
    pub(crate) utc: Option<u64>,
}

impl WindowInfo {
    fn times(&self, builder: gst::structure::Builder) -> gst::structure::Builder {
        let pts = |time| self.segment.position_from_running_time(time);
        let stream = |time| pts(time).and_then(|pts| stream_time(&self.segment, pts));
        builder
            .field_if_some("start-pts", pts(self.start).map(gst::ClockTime::nseconds))
            .field_if_some("end-pts", pts(self.end).map(gst::ClockTime::nseconds))
            .field("start-running-time", self.start.nseconds())
            .field("end-running-time", self.end.nseconds())
            .field_if_some(
                "start-stream-time",
                stream(self.start).map(gst::ClockTime::nseconds),
            )
            .field_if_some(
                "end-stream-time",
                stream(self.end).map(gst::ClockTime::nseconds),
            )
            .field_if_some("utc", self.utc)
            .field("partial", self.partial)
            .field("frames", self.frames.len() as u32)
            .field(
                "frame-pts",
                gst::Array::new(self.frames.iter().map(|pts| pts.nseconds())),
            )
    }
}

/// The fields of a request's messages.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) window: Arc<WindowInfo>,
    /// Number of the request.
    pub(crate) number: u64,
    pub(crate) prompt: String,
}

impl Request {
    pub(crate) fn id(&self) -> RequestId {
        RequestId {
            window: self.window.id,
            request: self.number,
        }
    }

    /// The fields that all structures share.
    fn structure(&self, name: &str) -> gst::structure::Builder {
        gst::Structure::builder(name)
            .field("schema-version", SCHEMA_VERSION)
            .field("stream-id", &self.window.stream_id)
            .field("window-id", self.window.id)
            .field("request-id", self.number)
            .field("kind", "window")
    }

    /// `qwenvl/token`: token number `index` of the answer, and the text that became certain with
    /// it.
    pub(crate) fn token(&self, index: u32, id: u32, text: &str) -> gst::Structure {
        let token = self.structure(TOKEN);
        let token = token.field("index", index).field("token-id", id);
        with_json(token.field("text", c_text(text)))
    }

    /// `qwenvl/description`. `late` is the time between the arrival of the last frame and its
    /// hand-over to the backend, which the backend's own timings do not hold.
    pub(crate) fn description(
        &self,
        answer: &Answer,
        model: &ModelInfo,
        late: Duration,
    ) -> gst::Structure {
        let t = &answer.timings;
        let description = self
            .window
            .times(self.structure(DESCRIPTION))
            .field("prompt", &self.prompt)
            .field("text", c_text(&answer.text))
            .field("finish-reason", answer.finish_reason.as_str())
            .field("grid", gst::Array::new(answer.grid))
            .field("prompt-tokens", answer.prompt_tokens)
            .field("completion-tokens", answer.completion_tokens)
            .field("model", &model.name)
            .field("backend", model.backend)
            .field("device", &model.runs_on)
            .field("queue-time", nanos(t.queue))
            .field("vision-time", nanos(t.vision))
            .field("prefill-time", nanos(t.prefill))
            .field(
                "first-token-time",
                nanos(late.saturating_add(t.first_token)),
            )
            .field("last-token-time", nanos(late.saturating_add(t.last_token)));
        with_json(description)
    }

    /// `qwenvl/dropped`.
    pub(crate) fn dropped(&self, reason: Reason, message: Option<&str>) -> gst::Structure {
        let dropped = self
            .window
            .times(self.structure(DROPPED))
            .field("reason", reason.as_str())
            .field_if_some("message", message.map(c_text));
        with_json(dropped)
    }
}

/// The field `text` of a description.
pub(crate) fn text(description: &gst::StructureRef) -> &str {
    description.get("text").unwrap_or_default()
}

/// Adds the field [`JSON`], which holds the other fields.
fn with_json(builder: gst::structure::Builder) -> gst::Structure {
    let mut structure = builder.build();
    let json = json::object(&structure);
    structure.set(JSON, json);
    structure
}

/// Strings of GStreamer end at a NUL, so one inside becomes U+FFFD: nothing behind it is lost.
fn c_text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
