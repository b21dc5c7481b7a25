//! The answer to a request, token by token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qwen3_vl_core::EventSink;
use qwen3_vl_core::event::{Answer, Event, FinishReason, Timings};
use qwen3_vl_core::request::Request;

use super::{Ask, Role, Sequence};
use crate::detokenize::Detokenizer;
use crate::engine::failure;
use crate::engine::interrupt::Waiter;
use crate::engine::repetition::RepetitionGuard;
use crate::engine::runner::StepError;
use crate::sampling::{Logits, Penalty, TokenSampler};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// The state that only a request has.
pub(super) struct Answering {
    pub(super) sink: EventSink,
    request: Request,
    /// Number among all requests.
    pub(super) order: u64,
    /// Tokens of the prompt; 0 until it is laid out.
    pub(super) prompt_tokens: usize,
    asked: Instant,
    queue: Option<Duration>,
    sampler: TokenSampler,
    guard: RepetitionGuard,
    detokenizer: Detokenizer,
    text: String,
    completion: u32,
    first_token: Option<Duration>,
    /// Counts as a waiter of the window until dropped.
    _waiter: Option<Arc<Waiter>>,
}

impl Answering {
    pub(super) fn new(ask: Ask, order: u64) -> Self {
        let Ask {
            request,
            sink,
            at,
            waiter,
            ..
        } = ask;
        Self {
            sink,
            sampler: TokenSampler::new(request.sampling, request.seed),
            guard: RepetitionGuard::new(request.repetition_guard),
            request,
            order,
            prompt_tokens: 0,
            asked: at,
            queue: None,
            detokenizer: Detokenizer::default(),
            text: String::new(),
            completion: 0,
            first_token: None,
            _waiter: waiter,
        }
    }

    /// Records when the first pass with tokens of its own begins.
    pub(super) fn begins(&mut self, now: Instant) {
        let asked = self.asked;
        self.queue
            .get_or_insert_with(|| now.saturating_duration_since(asked));
    }

    /// Tokens that may still be generated.
    pub(super) fn left(&self) -> usize {
        self.request.max_tokens.saturating_sub(self.completion) as usize
    }

    /// Adds the text that ends with this token, and sends it.
    fn say(&mut self, id: u32, text: String) {
        self.text.push_str(&text);
        if self.request.emit_tokens {
            self.sink.send(Event::Token { id, text });
        }
    }
}

impl Sequence {
    fn answering(&self) -> Option<&Answering> {
        match &self.role {
            Role::Request(answering) => Some(answering),
            _ => None,
        }
    }

    /// Appends the rest of the prompt to what the window has.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub(super) fn lay_out_request(&mut self, tokenizer: &Tokenizer) -> Result<(), TokenizerError> {
        if let Role::Request(answering) = &self.role {
            self.prompt.finish(&answering.request.prompt);
        }
        let chunk = self.chunk(None, tokenizer)?;
        self.pending.append(chunk);
        if let Role::Request(answering) = &mut self.role {
            answering.prompt_tokens = self.ids.len();
        }
        Ok(())
    }

    /// Whether the prompt is in the KV cache and the answer has begun.
    pub(super) fn decoding(&self) -> bool {
        self.answering()
            .is_some_and(|answering| self.ids.len() > answering.prompt_tokens)
    }

    /// Whether its next token is sampled after this pass: it is a request without pending tokens.
    pub fn samples(&self) -> bool {
        self.answering().is_some() && self.pending.is_empty()
    }

    /// How many of the largest logits its next token is chosen from; none if from all.
    pub fn candidates_needed(&self) -> Option<usize> {
        self.answering()?.sampler.candidates_needed()
    }

    /// Penalties that apply to its logits before its next token is chosen.
    pub fn penalties(&self) -> Vec<Penalty> {
        match self.answering() {
            Some(answering) => {
                let generated = &self.ids[answering.prompt_tokens..];
                answering.sampler.penalties(&self.ids, generated)
            }
            None => Vec::new(),
        }
    }

    /// Chooses the next token. It is pending then, unless it completes the answer, which is sent.
    /// `context` is the model's context length in tokens.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub fn sample(
        &mut self,
        logits: Logits<'_>,
        context: usize,
        stop: &[u32],
        tokenizer: &Tokenizer,
    ) -> Result<(), TokenizerError> {
        if logits.has_nan() {
            // NaN logits give any token, without meaning.
            self.fail(failure(&StepError::NoNumbers));
            return Ok(());
        }
        let last_push = self.last_push;
        let Role::Request(answering) = &mut self.role else {
            return Ok(());
        };
        let generated = &self.ids[answering.prompt_tokens..];
        let token = answering.sampler.next(logits, &self.ids, generated);
        answering.completion += 1;
        answering.first_token.get_or_insert(last_push.elapsed());
        if stop.contains(&token) {
            return self.finish(token, String::new(), FinishReason::Stop, tokenizer);
        }
        self.ids.push(token);
        let text = answering.detokenizer.push(token, tokenizer)?;
        let text = text.unwrap_or_default();
        let (repeats, most) = (answering.guard.push(token), answering.request.max_tokens);
        let full = self.ids.len() - answering.prompt_tokens >= most as usize;
        if repeats {
            return self.finish(token, text, FinishReason::Repetition, tokenizer);
        }
        if full || self.ids.len() >= context {
            return self.finish(token, text, FinishReason::Length, tokenizer);
        }
        answering.say(token, text);
        self.pending.ids.push(token);
        self.cursor.text(1, &mut self.pending.positions);
        Ok(())
    }

    /// Ends the answer with this token and its text, and flushes an incomplete character.
    fn finish(
        &mut self,
        last: u32,
        mut text: String,
        reason: FinishReason,
        tokenizer: &Tokenizer,
    ) -> Result<(), TokenizerError> {
        let Role::Request(answering) = &mut self.role else {
            return Ok(());
        };
        let rest = std::mem::take(&mut answering.detokenizer).finish(tokenizer)?;
        text.push_str(&rest.unwrap_or_default());
        answering.say(last, text);
        let answer = Answer {
            text: std::mem::take(&mut answering.text),
            tokens: self.ids[answering.prompt_tokens..].to_vec(),
            finish_reason: reason,
            grid: self.grid,
            prompt_tokens: answering.prompt_tokens as u32,
            completion_tokens: answering.completion,
            timings: Timings {
                queue: answering.queue.unwrap_or_default(),
                vision: self.vision,
                prefill: self.prefill,
                first_token: answering.first_token.unwrap_or_default(),
                last_token: self.last_push.elapsed(),
            },
        };
        answering.sink.send(Event::Answer(answer));
        Ok(())
    }
}
