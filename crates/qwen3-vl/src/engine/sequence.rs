//! One window inside the engine: its prompt, cache, answer and clock readings.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::failure;
use super::repetition::RepetitionGuard;
use super::runner::StepError;
use super::scheduler::WindowState;
use super::vision_cache::{Encoded, same};
use crate::config::Config;
use crate::detokenize::Detokenizer;
use crate::model::{Chunk, KvCache};
use crate::sampling::{Penalty, Sampler, Scores};
use crate::tokenizer::{Tokenizer, TokenizerError};
use qwen3_vl_core::EventSink;
use qwen3_vl_core::backend::WindowHead;
use qwen3_vl_core::event::{Answer, Event, FinishReason, Timings};
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::frames::{VisionInput, patch_seconds};
use qwen3_vl_core::prompt::{Piece, PositionCursor, PromptBuilder};
use qwen3_vl_core::request::Request;

/// A window from `open` to its terminal event.
pub struct Sequence {
    id: u64,
    sink: EventSink,
    /// Vision inputs that the prompt does not have yet.
    waiting: VecDeque<Waiting>,
    /// Tokens that are not in the cache yet.
    pending: Chunk,
    /// Keys and values so far.
    pub kv: KvCache,
    prompt: PromptBuilder,
    cursor: PositionCursor,
    /// Every id in the cache, then the generated ones.
    ids: Vec<u32>,
    prompt_tokens: usize,
    grid: [u32; 3],
    answering: Option<Answering>,
    last_push: Instant,
    /// Time spent in the vision encoder.
    pub vision: Duration,
    /// Time spent in prefill.
    pub prefill: Duration,
}

struct Answering {
    request: Request,
    order: u64,
    closed: Instant,
    queue: Option<Duration>,
    sampler: Sampler,
    guard: RepetitionGuard,
    detokenizer: Detokenizer,
    text: String,
    completion: u32,
    first_token: Option<Duration>,
}

/// A vision input on its way into the prompt.
struct Waiting {
    input: VisionInput,
    /// Number of its arrival.
    since: u64,
    /// Whether it is being encoded.
    flying: bool,
    encoded: Option<Encoded>,
}

impl Sequence {
    /// An empty window.
    pub fn new(id: u64, head: &WindowHead, sink: EventSink, kv: KvCache) -> Self {
        Self {
            id,
            sink,
            waiting: VecDeque::new(),
            pending: Chunk::default(),
            kv,
            prompt: PromptBuilder::new(head.layout, head.system_prompt.as_deref()),
            cursor: PositionCursor::default(),
            ids: Vec::new(),
            prompt_tokens: 0,
            grid: [0; 3],
            answering: None,
            last_push: Instant::now(),
            vision: Duration::ZERO,
            prefill: Duration::ZERO,
        }
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What the scheduler sees.
    pub fn state(&self) -> WindowState {
        WindowState {
            id: self.id,
            waiting: self.unencoded().count(),
            since: self.unencoded().next().map_or(0, |waiting| waiting.since),
            pending: self.pending.len(),
            closed: self.answering.as_ref().map(|a| a.order),
            decoding: self.decoding(),
        }
    }

    fn unencoded(&self) -> impl Iterator<Item = &Waiting> {
        let waiting = self.waiting.iter();
        waiting.filter(|w| w.encoded.is_none() && !w.flying)
    }

    /// Inputs of a batch are being encoded.
    pub fn depart(&mut self, batch: &[VisionInput]) {
        for waiting in &mut self.waiting {
            waiting.flying |= batch.iter().any(|input| same(input, &waiting.input));
        }
    }

    /// Whether it waits for an input of a batch that is being encoded.
    pub fn awaits(&self, batch: &[VisionInput]) -> bool {
        let mut flying = self
            .waiting
            .iter()
            .filter(|w| w.flying && w.encoded.is_none());
        flying.any(|waiting| batch.iter().any(|input| same(input, &waiting.input)))
    }

    /// Vision inputs that the prompt does not have yet, in order.
    pub fn to_come(&self) -> impl Iterator<Item = &VisionInput> {
        self.waiting.iter().map(|waiting| &waiting.input)
    }

    /// Vision inputs that are to be encoded, in order.
    pub fn inputs(&self) -> impl Iterator<Item = &VisionInput> {
        self.unencoded().map(|waiting| &waiting.input)
    }

    /// Whether the prompt is in the cache and the answer has begun.
    fn decoding(&self) -> bool {
        self.ids.len() > self.prompt_tokens && self.prompt_tokens > 0
    }

    /// Takes a vision input that arrived at `now`, as number `since` of all.
    pub fn push(&mut self, input: VisionInput, since: u64, now: Instant) {
        self.waiting.push_back(Waiting {
            input,
            since,
            flying: false,
            encoded: None,
        });
        self.last_push = now;
    }

    /// What `find` knows of inputs that have not been encoded is theirs.
    pub fn encoded(&mut self, find: impl Fn(&VisionInput) -> Option<Encoded>) {
        for waiting in self.waiting.iter_mut().filter(|w| w.encoded.is_none()) {
            waiting.encoded = find(&waiting.input);
        }
    }

    /// Puts into the prompt what is known of it by now: inputs that are encoded and, when the window
    /// is closed and has them all, the rest of it.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub fn advance(
        &mut self,
        tokenizer: &Tokenizer,
        config: &Config,
    ) -> Result<(), TokenizerError> {
        while let Some(encoded) = self.waiting.front_mut().and_then(|w| w.encoded.take())
            && let Some(Waiting { input, .. }) = self.waiting.pop_front()
        {
            let chunk = self.input_chunk(&input, encoded, tokenizer, config)?;
            self.pending.append(chunk);
        }
        if self.waiting.is_empty() && self.answering.is_some() && self.prompt_tokens == 0 {
            let chunk = self.tail_chunk(tokenizer)?;
            self.pending.append(chunk);
        }
        Ok(())
    }

    /// Takes the next tokens for a pass that begins at `now`, at most `count`.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn take(&mut self, count: usize, now: Instant) -> candle_core::Result<Chunk> {
        if self.prompt_tokens > 0
            && let Some(answering) = &mut self.answering
        {
            let closed = answering.closed;
            answering
                .queue
                .get_or_insert_with(|| now.saturating_duration_since(closed));
        }
        self.pending.take(count)
    }

    /// Whether a token is to be sampled behind what has been taken.
    pub fn samples(&self) -> bool {
        self.prompt_tokens > 0 && self.pending.is_empty()
    }

    /// Counts the time of a pass that it was in.
    pub fn passed(&mut self, time: Duration) {
        if !self.decoding() {
            self.prefill += time;
        }
    }

    /// Takes the request. `order` counts the closed windows of the engine.
    pub fn close(&mut self, request: Request, order: u64, now: Instant) {
        self.answering = Some(Answering {
            sampler: Sampler::new(request.sampling, request.seed),
            guard: RepetitionGuard::new(request.repetition_guard),
            request,
            order,
            closed: now,
            queue: None,
            detokenizer: Detokenizer::default(),
            text: String::new(),
            completion: 0,
            first_token: None,
        });
    }

    fn input_chunk(
        &mut self,
        input: &VisionInput,
        encoded: Encoded,
        tokenizer: &Tokenizer,
        config: &Config,
    ) -> Result<Chunk, TokenizerError> {
        let placeholder = match input {
            VisionInput::Pair([a, b]) => {
                self.prompt.video_patch(patch_seconds(a.seconds, b.seconds));
                config.video_token_id
            }
            VisionInput::Image(_) => {
                self.prompt.image();
                config.image_token_id
            }
        };
        self.grid = [self.grid[0] + 1, encoded.patches.0, encoded.patches.1];
        self.chunk(Some((encoded, placeholder)), tokenizer)
    }

    fn tail_chunk(&mut self, tokenizer: &Tokenizer) -> Result<Chunk, TokenizerError> {
        if let Some(answering) = &self.answering {
            self.prompt.finish(&answering.request.prompt);
        }
        let chunk = self.chunk(None, tokenizer)?;
        self.prompt_tokens = self.ids.len();
        Ok(chunk)
    }

    fn chunk(
        &mut self,
        mut input: Option<(Encoded, u32)>,
        tokenizer: &Tokenizer,
    ) -> Result<Chunk, TokenizerError> {
        let mut chunk = Chunk::default();
        for piece in self.prompt.take() {
            let ids = match piece {
                Piece::Text(text) => tokenizer.encode(&text)?,
                Piece::Special(special) => vec![tokenizer.special(special)],
                Piece::Vision => {
                    if let Some((input, placeholder)) = input.take() {
                        let (rows, columns) = input.merged;
                        chunk.vision.push((chunk.ids.len(), input.tokens));
                        let count = (rows * columns) as usize;
                        chunk.ids.extend(std::iter::repeat_n(placeholder, count));
                        self.cursor.grid(rows, columns, &mut chunk.positions);
                    }
                    continue;
                }
            };
            self.cursor.text(ids.len(), &mut chunk.positions);
            chunk.ids.extend(ids);
        }
        self.ids.extend(&chunk.ids);
        Ok(chunk)
    }

    /// Tokens so far: prompt and answer.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// How many of the largest scores its next token is chosen from, if not from all.
    pub fn wants(&self) -> Option<usize> {
        self.answering.as_ref()?.sampler.wants()
    }

    /// What is taken off scores before its next token is chosen.
    pub fn penalties(&self) -> Vec<Penalty> {
        let generated = &self.ids[self.prompt_tokens..];
        match &self.answering {
            Some(answering) => answering.sampler.penalties(&self.ids, generated),
            None => Vec::new(),
        }
    }

    /// Chooses the next token, which is pending then, unless the answer is complete and has been sent.
    /// `context` is the most tokens that the model can hold.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub fn sample(
        &mut self,
        scores: Scores<'_>,
        context: usize,
        stop: &[u32],
        tokenizer: &Tokenizer,
    ) -> Result<(), TokenizerError> {
        if scores.are_no_numbers() {
            // Any token would do, and mean nothing.
            self.fail(failure(&StepError::NoNumbers));
            return Ok(());
        }
        let Some(answering) = &mut self.answering else {
            return Ok(());
        };
        let generated = &self.ids[self.prompt_tokens..];
        let token = answering.sampler.next(scores, &self.ids, generated);
        answering.completion += 1;
        answering
            .first_token
            .get_or_insert(self.last_push.elapsed());
        if stop.contains(&token) {
            return self.finish(token, String::new(), FinishReason::Stop, tokenizer);
        }
        self.ids.push(token);
        let text = answering.detokenizer.push(token, tokenizer)?;
        let text = text.unwrap_or_default();
        let (repeats, most) = (answering.guard.push(token), answering.request.max_tokens);
        let full = self.ids.len() - self.prompt_tokens >= most as usize;
        if repeats {
            return self.finish(token, text, FinishReason::Repetition, tokenizer);
        }
        if full || self.ids.len() >= context {
            return self.finish(token, text, FinishReason::Length, tokenizer);
        }
        self.say(token, text);
        self.pending.ids.push(token);
        self.cursor.text(1, &mut self.pending.positions);
        Ok(())
    }

    fn say(&mut self, id: u32, text: String) {
        let Some(answering) = &mut self.answering else {
            return;
        };
        answering.text.push_str(&text);
        if answering.request.emit_tokens {
            self.sink.send(Event::Token { id, text });
        }
    }

    /// The answer ends with this token and its text; what is left of an incomplete character is said
    /// with it.
    fn finish(
        &mut self,
        last: u32,
        mut text: String,
        reason: FinishReason,
        tokenizer: &Tokenizer,
    ) -> Result<(), TokenizerError> {
        let Some(answering) = &mut self.answering else {
            return Ok(());
        };
        let rest = std::mem::take(&mut answering.detokenizer).finish(tokenizer)?;
        text.push_str(&rest.unwrap_or_default());
        self.say(last, text);
        let Some(answering) = self.answering.take() else {
            return Ok(());
        };
        let answer = Answer {
            text: answering.text,
            tokens: self.ids[self.prompt_tokens..].to_vec(),
            finish_reason: reason,
            grid: self.grid,
            prompt_tokens: self.prompt_tokens as u32,
            completion_tokens: answering.completion,
            timings: Timings {
                queue: answering.queue.unwrap_or_default(),
                vision: self.vision,
                prefill: self.prefill,
                first_token: answering.first_token.unwrap_or_default(),
                last_token: self.last_push.elapsed(),
            },
        };
        self.sink.send(Event::Answer(answer));
        Ok(())
    }

    /// Whether the terminal event has been sent.
    pub fn ended(&self) -> bool {
        self.sink.ended()
    }

    /// Ends the window without an answer.
    pub fn fail(&mut self, failure: Failure) {
        self.sink.send(Event::Failed(failure));
    }
}
