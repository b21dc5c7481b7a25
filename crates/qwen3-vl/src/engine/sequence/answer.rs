//! The answer to a request, token by token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use qwen3_vl_core::EventSink;
use qwen3_vl_core::event::{Answer, Event, FinishReason, Timings};
use qwen3_vl_core::reasoning::Opening;
use qwen3_vl_core::request::Request;

use super::output::Output;
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
    opening: Opening,
    /// Number among all requests.
    pub(super) order: u64,
    /// Tokens of the prompt; 0 until it is laid out.
    pub(super) prompt_tokens: usize,
    asked: Instant,
    queue: Option<Duration>,
    sampler: TokenSampler,
    guard: RepetitionGuard,
    detokenizer: Detokenizer,
    output: Output,
    completion: u32,
    first_token: Option<Duration>,
    /// Counts as a waiter of the window until dropped.
    _waiter: Option<Arc<Waiter>>,
}

impl Answering {
    pub(super) fn new(ask: Ask, order: u64, tokenizer: &Tokenizer) -> Self {
        let Ask {
            request,
            sink,
            at,
            waiter,
            ..
        } = ask;
        let opening = request.opening(tokenizer.thinks());
        Self {
            sink,
            sampler: TokenSampler::new(request.sampling, request.seed),
            guard: RepetitionGuard::new(request.repetition_guard),
            output: Output::new(&request, opening),
            request,
            opening,
            order,
            prompt_tokens: 0,
            asked: at,
            queue: None,
            detokenizer: Detokenizer::default(),
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
        self.output.left()
    }

    /// Sends the events of tokens, if they are wanted.
    fn send(&mut self, events: Vec<Event>) {
        if self.request.emit_tokens {
            for event in events {
                self.sink.send(event);
            }
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
            let prompt = &answering.request.prompt;
            self.prompt.finish(prompt, answering.opening);
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
        let end_think = tokenizer.end_think();
        let forced = end_think.filter(|_| answering.output.must_answer());
        let token = forced.unwrap_or_else(|| answering.sampler.next(logits, &self.ids, generated));
        answering.completion += 1;
        answering.first_token.get_or_insert(last_push.elapsed());
        if stop.contains(&token) {
            answering.output.push(token, "");
            return self.finish(FinishReason::Stop, tokenizer);
        }
        self.ids.push(token);
        let text = answering.detokenizer.push(token, tokenizer)?;
        answering.output.push(token, &text.unwrap_or_default());
        if answering.guard.push(token) {
            return self.finish(FinishReason::Repetition, tokenizer);
        }
        // A thought that cannot be ended has no answer.
        let endless = end_think.is_none() && answering.output.must_answer();
        if answering.output.is_full() || endless || self.ids.len() >= context {
            return self.finish(FinishReason::Length, tokenizer);
        }
        let events = answering.output.events();
        answering.send(events);
        self.pending.ids.push(token);
        self.cursor.text(1, &mut self.pending.positions);
        Ok(())
    }

    /// Ends the answer, and flushes an incomplete character.
    fn finish(
        &mut self,
        reason: FinishReason,
        tokenizer: &Tokenizer,
    ) -> Result<(), TokenizerError> {
        let Role::Request(answering) = &mut self.role else {
            return Ok(());
        };
        let rest = std::mem::take(&mut answering.detokenizer).finish(tokenizer)?;
        let events = answering.output.finish(&rest.unwrap_or_default());
        answering.send(events);
        let (reasoning, text) = answering.output.take();
        let answer = Answer {
            text,
            reasoning,
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
