//! The seam between callers and whatever runs the model: windows in, tokens out.
//!
//! A caller opens a window, pushes vision inputs as they arrive and closes it with a question:
//!
//! ```text
//! open(head) -> WindowInput ── push ── push ── close(question)
//!                  │                               │
//!                  └── drop: cancelled             └── EventSink: Token* then one terminal event
//! ```
//!
//! Every opened window ends in exactly one terminal [`Event`].

pub mod fake;
pub mod local;

use std::time::Duration;

use crate::forecast::Limits;
use crate::frames::VisionInput;

/// Receives a window's events, in order, on a thread of the backend. Must not block.
pub type EventSink = Box<dyn FnMut(Event) + Send>;

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

    /// Whether it will answer nothing more, as [`Failure::Backend`] says.
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
    fn close(self: Box<Self>, question: Question) -> Box<dyn RequestHandle>;
}

/// A closed window that waits for its answer. Dropping the handle does *not* cancel.
pub trait RequestHandle: Send {
    /// Asks the backend to stop; the terminal event ([`Event::Cancelled`], or an answer that was
    /// already under way) still comes.
    fn cancel(&self);
}

/// Facts about a loaded model that callers need.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// Name as the user gave it, for instance `demo` or a hub id.
    pub name: String,
    /// Kind of backend, for instance `local`.
    pub backend: &'static str,
    /// Device that computes, for instance `cpu` or `cuda:0`.
    pub device: String,
    /// What weights have been rounded to, and what could not be, for instance `q8-0`; none if none
    /// have.
    pub quantization: Option<String>,
    /// Sizes must be multiples of this many pixels (patch size times spatial merge).
    pub factor: u32,
    /// Frames per temporal patch.
    pub temporal_patch: u32,
    /// Pixels of a whole video (frames x height x width): least and most, from
    /// `video_preprocessor_config.json`.
    pub video_pixels: (u64, u64),
    /// Whether `video_pixels` are of each frame instead, as with the video processor of Qwen2-VL.
    pub video_pixels_per_frame: bool,
    /// Pixels of one image: least and most, from `preprocessor_config.json`.
    pub image_pixels: (u64, u64),
    /// How to decode by default: as the checkpoint says, and the model card where it says nothing.
    pub generation: Generation,
    /// What the checkpoint itself says of that, everything else off. It holds beside a temperature
    /// that a caller chose; the card's other values belong to the card's temperature.
    pub own_generation: Generation,
    /// Fewest tokens that the time before a pair of frames has, such as `<0.2 seconds>`.
    pub time_tokens: usize,
    /// What a window may have at most.
    pub limits: Limits,
}

/// Where the vision tokens stand in the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PromptLayout {
    /// `<t seconds><|vision_start|>…<|vision_end|>` per pair, nothing around them
    /// (transformers 4.57, vLLM, Qwen's own evaluations).
    #[default]
    Canonical,
    /// The same inside one more vision_start/vision_end pair (transformers >= 5.10).
    Nested,
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

/// What stands behind the frames, and how to answer it.
#[derive(Clone, Debug)]
pub struct Question {
    /// The user's text. It can never become a special token.
    pub prompt: String,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// How tokens are chosen.
    pub generation: Generation,
    /// Seed of the sampler.
    pub seed: u64,
    /// Whether to send [`Event::Token`].
    pub emit_tokens: bool,
    /// Tokens of exact repetition after which the answer ends ([`FinishReason::Repetition`]); 0 never
    /// ends it, as in the reference.
    pub repetition_guard: u32,
}

/// How the next token is chosen from the logits, in the order transformers applies it:
/// penalties, temperature, top-k, top-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Generation {
    /// 0 means greedy.
    pub temperature: f64,
    /// Keep the smallest set of tokens with at least this probability; 1 keeps all.
    pub top_p: f64,
    /// Keep this many tokens; 0 keeps all.
    pub top_k: u32,
    /// Subtracted once from the logit of every token already generated.
    pub presence_penalty: f64,
    /// Divides (multiplies, if negative) the logit of every token already in the sequence; 1 = off.
    pub repetition_penalty: f64,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
        }
    }
}

/// What happens to an opened window. `Answer`, `Failed` and `Cancelled` are terminal.
#[derive(Clone, Debug)]
pub enum Event {
    /// A generated token, the stop token included.
    Token {
        /// Its id in the vocabulary.
        id: u32,
        /// The text that became certain with it: whole UTF-8 characters, or nothing while a character
        /// is incomplete. The texts of all tokens together are that of the answer.
        text: String,
    },
    /// The whole answer.
    Answer(Answer),
    /// The request could not be answered; the text says why and what to do.
    Failed(Failure),
    /// The window was cancelled.
    Cancelled,
}

impl Event {
    /// Whether no event follows.
    pub fn is_terminal(&self) -> bool {
        !matches!(self, Self::Token { .. })
    }
}

/// Why a window got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// This request is impossible, for instance too many tokens for the context; others may work.
    #[error("{0}")]
    Request(String),
    /// There is no memory for it now; later there may be.
    #[error("{0}")]
    Full(String),
    /// The backend is broken and will answer nothing more, for instance after a panic.
    #[error("{0}")]
    Backend(String),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model said so.
    Stop,
    /// `max_tokens` or the end of the context were reached.
    Length,
    /// It repeated itself for [`Question::repetition_guard`] tokens; what it repeated is part of it.
    Repetition,
}

impl FinishReason {
    /// Name as it stands in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Repetition => "repetition",
        }
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The text, special tokens left out.
    pub text: String,
    /// The generated ids, the stop token left out.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Vision grid in patches: temporal patches (or images), rows, columns, before merging.
    pub grid: [u32; 3],
    /// Tokens of the whole prompt, vision tokens included.
    pub prompt_tokens: u32,
    /// Generated tokens, the stop token included.
    pub completion_tokens: u32,
    /// Where the time went.
    pub timings: Timings,
}

/// Where the time of one request went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From `close` to the first work done for the prompt's tail.
    pub queue: Duration,
    /// Spent in the vision encoder, over all inputs.
    pub vision: Duration,
    /// Spent in prefill, over all chunks.
    pub prefill: Duration,
    /// From the last `push` to the first token.
    pub first_token: Duration,
    /// From the last `push` to the last token.
    pub last_token: Duration,
}
