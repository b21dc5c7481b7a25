//! The events of a request.

use std::time::Duration;

use crate::failure::Failure;

/// An event of a request. `Answer`, `Failed` and `Cancelled` are terminal.
#[derive(Clone, Debug)]
pub enum Event {
    /// A generated token, the stop token included.
    Token {
        /// Its id in the vocabulary.
        id: u32,
        /// The text that it completes: whole UTF-8 characters, or nothing while a character is
        /// incomplete. The texts of all tokens together are the answer's.
        text: String,
    },
    /// The whole answer.
    Answer(Answer),
    /// The request could not be answered; the text says why and what to do.
    Failed(Failure),
    /// The request was cancelled.
    Cancelled,
}

impl Event {
    /// Whether no event follows.
    pub fn is_terminal(&self) -> bool {
        !matches!(self, Self::Token { .. })
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model generated a stop token.
    Stop,
    /// `max_tokens` or the end of the context was reached.
    Length,
    /// It repeated itself for [`Request::repetition_guard`] tokens, which are part of the answer.
    ///
    /// [`Request::repetition_guard`]: crate::request::Request::repetition_guard
    Repetition,
}

impl FinishReason {
    /// Name in messages.
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
    /// Where its time was spent.
    pub timings: Timings,
}

/// Where the time of one request was spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From `ask` to the first work done for the prompt's tail.
    pub queue: Duration,
    /// Spent in the vision encoder, over all inputs.
    pub vision: Duration,
    /// Spent in prefill, over all chunks.
    pub prefill: Duration,
    /// From the last `push` before the request to the first token.
    pub first_token: Duration,
    /// From the last `push` before the request to the last token.
    pub last_token: Duration,
}
