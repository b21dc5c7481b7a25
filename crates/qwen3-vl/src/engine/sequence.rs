//! One window inside the engine: its prompt, cache, answer and clock readings.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::scheduler::WindowState;
use super::sink::Sink;
use crate::backend::{Answer, Event, Failure, FinishReason, Question, Timings, WindowHead};
use crate::config::Config;
use crate::detokenize::Detokenizer;
use crate::frames::VisionInput;
use crate::model::{Chunk, KvCache, VisionTokens};
use crate::prompt::{Piece, PositionCursor, PromptBuilder};
use crate::sampling::Sampler;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// A window from `open` to its terminal event.
pub struct Sequence {
    id: u64,
    sink: Sink,
    /// Vision inputs that have not been encoded.
    pub waiting: VecDeque<VisionInput>,
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
    question: Question,
    order: u64,
    closed: Instant,
    queue: Duration,
    sampler: Sampler,
    detokenizer: Detokenizer,
    text: String,
    completion: u32,
    first_token: Option<Duration>,
}

/// A vision input's merged grid and kind, as the prompt needs them.
#[derive(Clone, Debug)]
pub struct EncodedInput {
    /// Its tokens.
    pub tokens: VisionTokens,
    /// Rows and columns of merged tokens.
    pub merged: (u32, u32),
    /// Rows and columns of patches.
    pub patches: (u32, u32),
    /// Time of a temporal patch in seconds; none for an image.
    pub seconds: Option<f64>,
}

impl Sequence {
    /// An empty window.
    pub fn new(id: u64, head: &WindowHead, sink: Sink, kv: KvCache) -> Self {
        Self {
            id,
            sink,
            waiting: VecDeque::new(),
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
            waiting: self.waiting.len(),
            closed: self.answering.as_ref().map(|a| a.order),
            prefilled: self.prompt_tokens > 0,
        }
    }

    /// Takes a vision input that arrived at `now`.
    pub fn push(&mut self, input: VisionInput, now: Instant) {
        self.waiting.push_back(input);
        self.last_push = now;
    }

    /// Takes the question. `order` counts the closed windows of the engine.
    pub fn close(&mut self, question: Question, order: u64, now: Instant) {
        self.answering = Some(Answering {
            sampler: Sampler::new(question.generation, question.seed),
            question,
            order,
            closed: now,
            queue: Duration::ZERO,
            detokenizer: Detokenizer::default(),
            text: String::new(),
            completion: 0,
            first_token: None,
        });
    }

    /// The chunk that an encoded vision input adds to the cache.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub fn input_chunk(
        &mut self,
        input: EncodedInput,
        tokenizer: &Tokenizer,
        config: &Config,
    ) -> Result<Chunk, TokenizerError> {
        let placeholder = match input.seconds {
            Some(seconds) => {
                self.prompt.video_patch(seconds);
                config.video_token_id
            }
            None => {
                self.prompt.image();
                config.image_token_id
            }
        };
        self.grid = [self.grid[0] + 1, input.patches.0, input.patches.1];
        self.chunk(Some((input, placeholder)), tokenizer)
    }

    /// The chunk of the prompt's tail, which marks the end of waiting in the queue.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub fn tail_chunk(
        &mut self,
        tokenizer: &Tokenizer,
        now: Instant,
    ) -> Result<Chunk, TokenizerError> {
        if let Some(answering) = &mut self.answering {
            answering.queue = now.duration_since(answering.closed);
            self.prompt.finish(&answering.question.prompt);
        }
        let chunk = self.chunk(None, tokenizer)?;
        self.prompt_tokens = self.ids.len();
        Ok(chunk)
    }

    fn chunk(
        &mut self,
        mut input: Option<(EncodedInput, u32)>,
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

    /// Chooses the next token. Returns the chunk to decode next, or none when the answer is
    /// complete and has been sent. `context` is the most tokens that the model can hold.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub fn sample(
        &mut self,
        logits: &mut [f32],
        context: usize,
        stop: &[u32],
        tokenizer: &Tokenizer,
    ) -> Result<Option<Chunk>, TokenizerError> {
        let Some(answering) = &mut self.answering else {
            return Ok(None);
        };
        let generated = &self.ids[self.prompt_tokens..];
        let token = answering.sampler.next(logits, &self.ids, generated);
        answering.completion += 1;
        answering
            .first_token
            .get_or_insert(self.last_push.elapsed());
        if stop.contains(&token) {
            self.finish(FinishReason::Stop, tokenizer)?;
            return Ok(None);
        }
        self.ids.push(token);
        if let Some(piece) = answering.detokenizer.push(token, tokenizer)? {
            self.say(piece);
        }
        let limit = self
            .answering
            .as_ref()
            .map_or(0, |a| a.question.max_tokens as usize);
        if self.ids.len() - self.prompt_tokens >= limit || self.ids.len() >= context {
            self.finish(FinishReason::Length, tokenizer)?;
            return Ok(None);
        }
        let mut chunk = Chunk {
            ids: vec![token],
            ..Chunk::default()
        };
        self.cursor.text(1, &mut chunk.positions);
        Ok(Some(chunk))
    }

    fn say(&mut self, piece: String) {
        let Some(answering) = &mut self.answering else {
            return;
        };
        answering.text.push_str(&piece);
        if answering.question.emit_tokens {
            self.sink.send(Event::Token(piece));
        }
    }

    fn finish(
        &mut self,
        reason: FinishReason,
        tokenizer: &Tokenizer,
    ) -> Result<(), TokenizerError> {
        let Some(answering) = &mut self.answering else {
            return Ok(());
        };
        if let Some(rest) = std::mem::take(&mut answering.detokenizer).finish(tokenizer)? {
            self.say(rest);
        }
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
                queue: answering.queue,
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
