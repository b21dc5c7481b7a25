//! The seam between callers and whatever runs the model: windows in, tokens out.
//!
//! A window is a growing prefix. A caller opens it, pushes vision inputs as they arrive, and asks about
//! what it has pushed so far, any number of times, in between or after the last input:
//!
//! ```text
//! open(head) -> Window ── push ── ask ── push ── push ── ask ── ask ── drop: no more inputs
//!                 │                │                      │      │
//!                 │                └── EventSink: Token*, then one terminal event each
//!                 └── lost: it cannot be asked, and why
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

/// Something that turns windows of frames into text.
pub trait Backend: Send + Sync {
    /// What the model is and wants.
    fn model(&self) -> &ModelInfo;

    /// Opens a window. Never blocks on inference. `lost` hears of a failure that no request is told of,
    /// because none has been made; requests that are made later fail with it too.
    fn open(&self, head: WindowHead, lost: LostSink) -> Box<dyn Window>;

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

/// Receives the failure of a window that nobody has asked, at most once, on a thread of the backend. Must
/// not block.
pub type LostSink = Box<dyn FnOnce(Failure) + Send>;

/// An open window. Dropping it says that no more inputs come: requests that were made go on, and what
/// nobody asks is forgotten.
pub trait Window: Send {
    /// Hands over the next pair or image. Never blocks: the backend encodes and prefills it when
    /// its turn comes.
    fn push(&mut self, input: VisionInput);

    /// Asks about all that has been pushed so far. Never blocks. The answer is the one that the same
    /// request would get alone about the same inputs.
    fn ask(&mut self, request: Request, sink: EventSink) -> Box<dyn RequestHandle>;
}

/// A request that waits for its answer. Dropping the handle does *not* cancel.
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
    /// Most tokens that the prompt and one answer will have ([`Forecast::tokens`]): the window is admitted when
    /// the KV cache has room for them. A window that says less than it needs may be refused later.
    ///
    /// [`Forecast::tokens`]: crate::forecast::Forecast::tokens
    pub tokens: usize,
    /// Whether it waits for that room; else it fails at once with [`Failure::Full`].
    pub waits: bool,
}
