//! A request to the model, and its sampling parameters.

/// The part of a prompt after its frames, and how to answer it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The user's text. It can never become a special token.
    pub prompt: String,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// Sampling parameters.
    pub sampling: SamplingParams,
    /// Seed of the sampler.
    pub seed: u64,
    /// Whether to send [`Event::Token`](crate::event::Event::Token).
    pub emit_tokens: bool,
    /// Tokens of exact repetition after which the answer ends ([`FinishReason::Repetition`]); 0 for
    /// never, as in the reference.
    ///
    /// [`FinishReason::Repetition`]: crate::event::FinishReason::Repetition
    pub repetition_guard: u32,
}

/// How the next token is chosen from the logits, in transformers' order: penalties, temperature,
/// top-k, top-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
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

impl Default for SamplingParams {
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
