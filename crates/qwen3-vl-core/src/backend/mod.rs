//! The seam between callers and whatever runs the model: windows in, tokens out.
//!
//! A caller opens a window, pushes vision inputs as they arrive and closes it with a request:
//!
//! ```text
//! open(head) -> WindowInput ── push ── push ── close(request)
//!                  │                              │
//!                  └── drop: cancelled             └── EventSink: Token* then one terminal event
//! ```
//!
//! Every opened window ends in exactly one terminal [`Event`].

#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(any(test, feature = "fake"))]
pub mod manual;

use crate::EventSink;
#[cfg(doc)]
use crate::event::Event;
#[cfg(doc)]
use crate::failure::Failure;
use crate::frames::VisionInput;
use crate::model::ModelInfo;
use crate::prompt::PromptLayout;
use crate::request::Request;

/// Something that turns windows of frames into text.
pub trait Backend: Send + Sync {
    /// What the model is and wants.
    fn model(&self) -> &ModelInfo;

    /// Opens a window. Never blocks on inference.
    fn open(&self, head: WindowHead, sink: EventSink) -> Box<dyn WindowInput>;

    /// Fewest tokens that a text of a prompt has; 0 if the backend cannot tell at once.
    fn text_tokens(&self, text: &str) -> usize {
        let _ = text;
        0
    }

    /// Blocks of KV cache that windows hold now, if the backend has such a cache in this process.
    fn kv_blocks(&self) -> usize {
        0
    }

    /// Whether it will answer nothing more, as [`Failure::Fatal`] says.
    fn is_broken(&self) -> bool {
        false
    }
}

/// An open window. Dropping it before `close` cancels it ([`Event::Cancelled`]).
pub trait WindowInput: Send {
    /// Hands over the next pair or image. Never blocks: the backend encodes and prefills it when
    /// its turn comes.
    fn push(&mut self, input: VisionInput);

    /// No more frames: ask. The returned handle cancels the request when asked to.
    fn close(self: Box<Self>, request: Request) -> Box<dyn RequestHandle>;
}

/// A closed window that waits for its answer. Dropping the handle does *not* cancel.
pub trait RequestHandle: Send {
    /// Asks the backend to stop; the terminal event ([`Event::Cancelled`], or an answer that was
    /// already under way) still comes.
    fn cancel(&self);
}

/// What stands before the frames.
#[derive(Clone, Debug, Default)]
pub struct WindowHead {
    /// Layout of the vision tokens.
    pub layout: PromptLayout,
    /// System prompt; none by default.
    pub system_prompt: Option<String>,
    /// Most tokens that prompt and answer will have ([`Forecast::tokens`]): the window is admitted when
    /// the KV cache has room for them. A window that says less than it needs may be refused later.
    ///
    /// [`Forecast::tokens`]: crate::forecast::Forecast::tokens
    pub tokens: usize,
    /// Whether it waits for that room; else it fails at once with [`Failure::Full`].
    pub waits: bool,
}
