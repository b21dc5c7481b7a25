//! The interface between callers and an engine: windows in, tokens out.
//!
//! A window is a growing prefix. A caller opens it, pushes vision inputs as they arrive, and asks
//! about the inputs pushed so far, any number of times, in between or after the last input:
//!
//! ```text
//! open(head) -> Window ── push ── ask ── push ── push ── ask ── ask ── drop: no more inputs
//!                 │                │                      │      │
//!                 │                └── EventSink: Token*, then one terminal event each
//!                 └── lost: why the window cannot be asked
//! ```
//!
//! Every request ends in exactly one terminal [`Event`].

#[cfg(any(test, feature = "fake"))]
pub mod fake;
#[cfg(any(test, feature = "fake"))]
pub mod manual;

use crate::EventSink;
#[cfg(doc)]
use crate::event::Event;
use crate::failure::Failure;
use crate::frames::VisionInput;
use crate::model::ModelInfo;
use crate::prompt::PromptLayout;
use crate::request::Request;

/// An engine that turns windows of frames into text.
pub trait Backend: Send + Sync {
    /// The loaded model's sizes, limits and defaults.
    fn model(&self) -> &ModelInfo;

    /// Opens a window. Never blocks on inference. `lost` gets a failure before the first request;
    /// later requests fail with the same failure.
    fn open(&self, head: WindowHead, lost: LostSink) -> Box<dyn Window>;

    /// A lower bound of the tokens of a text; 0 if the backend cannot count without waiting.
    fn text_tokens(&self, text: &str) -> usize {
        let _ = text;
        0
    }

    /// Blocks of the KV cache in use; 0 if the backend has no such cache in this process.
    fn kv_blocks(&self) -> usize {
        0
    }

    /// Whether it answers nothing more, after a [`Failure::Fatal`].
    fn is_broken(&self) -> bool {
        false
    }
}

/// Receives the failure of a window without requests, at most once, on a thread of the backend.
/// Must not block.
pub type LostSink = Box<dyn FnOnce(Failure) + Send>;

/// An open window. Dropping it ends its inputs: its requests go on, and inputs that no request
/// needs are dropped.
pub trait Window: Send {
    /// Hands over the next pair or image. Never blocks: the backend encodes and prefills it when
    /// its turn comes.
    fn push(&mut self, input: VisionInput);

    /// Makes a request about all inputs pushed so far. Never blocks. The answer does not depend on
    /// other requests and windows.
    fn ask(&mut self, request: Request, sink: EventSink) -> Box<dyn RequestHandle>;
}

/// A request that waits for its answer. Dropping the handle does *not* cancel.
pub trait RequestHandle: Send {
    /// Cancels the request. The terminal event still comes: [`Event::Cancelled`], or an answer that
    /// was complete before.
    fn cancel(&self);
}

/// The part of a prompt before its frames, and the window's size.
#[derive(Clone, Debug, Default)]
pub struct WindowHead {
    /// Layout of the vision tokens.
    pub layout: PromptLayout,
    /// System prompt; none by default.
    pub system_prompt: Option<String>,
    /// Most tokens of the prompt and one answer together ([`Forecast::tokens`]). The window is
    /// admitted when the KV cache has free blocks for them. A window that outgrows them may fail
    /// with [`Failure::Full`] later.
    ///
    /// [`Forecast::tokens`]: crate::forecast::Forecast::tokens
    pub tokens: usize,
    /// Whether it waits for these blocks; else it fails at once with [`Failure::Full`].
    pub waits: bool,
}
