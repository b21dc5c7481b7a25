//! A window: inputs that are not in the prompt yet, and the requests that wait for them.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use qwen3_vl_core::backend::LostSink;
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::frames::{VisionInput, patch_seconds};

use super::answer::Answering;
use super::{Ask, Role, Sequence};
use crate::config::Config;
use crate::engine::vision_cache::{Encoded, same};
use crate::model::Chunk;
use crate::model::kv_cache::BLOCK_TOKENS;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Most tokens of the chat template behind a prompt, with the tags of a thought.
const TEMPLATE: usize = 16;

/// The state that only a window has.
pub(super) struct Prefix {
    /// Receives its failure until it has a request.
    lost: Option<LostSink>,
    /// Whether more inputs and requests may come.
    open: bool,
    /// Vision inputs that the prompt does not have yet.
    waiting: VecDeque<Waiting>,
    /// Requests that wait for the inputs before them, in order.
    asks: VecDeque<Queued>,
    /// Why it takes no more inputs, after one that it cannot bear; requests about that fail.
    refused: Option<Failure>,
    /// Inputs that have been pushed, and of those the ones that are in the prompt.
    pushed: usize,
    laid_out: usize,
}

/// A vision input that is not in the prompt yet.
struct Waiting {
    input: VisionInput,
    /// Its arrival number.
    since: u64,
    /// Whether it is being encoded.
    encoding: bool,
    encoded: Option<Encoded>,
}

/// A request that waits for its inputs.
struct Queued {
    ask: Ask,
    /// Its number among all requests.
    order: u64,
    /// How many inputs of the window it is about.
    after: usize,
    /// Tokens of its prompt, when they have been counted: it may wait for many turns.
    prompt_tokens: OnceCell<usize>,
}

impl Prefix {
    pub(super) fn new(lost: LostSink) -> Self {
        Self {
            lost: Some(lost),
            open: true,
            waiting: VecDeque::new(),
            asks: VecDeque::new(),
            refused: None,
            pushed: 0,
            laid_out: 0,
        }
    }

    /// The number of inputs to encode, the arrival of the oldest, and the order of the first
    /// request. Inputs after the first request wait until it has begun.
    pub(super) fn state(&self) -> (usize, u64, Option<u64>) {
        let first = self.asks.front();
        let most = first.map_or(usize::MAX, |first| first.after - self.laid_out);
        let inputs = || self.waiting.iter().take(most).filter(|w| w.is_new());
        let since = inputs().next().map_or(0, |waiting| waiting.since);
        (inputs().count(), since, first.map(|first| first.order))
    }

    /// Whether the prompt has all inputs of the first request.
    fn is_asked(&self) -> bool {
        let first = self.asks.front();
        first.is_some_and(|first| first.after == self.laid_out)
    }

    /// Whether inputs may still come into the prompt.
    fn grows(&self) -> bool {
        let last = self.asks.back();
        self.open && self.refused.is_none() || last.is_some_and(|last| last.after > self.laid_out)
    }

    /// Whether nothing but one request is left of it.
    fn is_last_asked(&self) -> bool {
        !self.open && self.asks.len() == 1 && self.is_asked()
    }
}

impl Waiting {
    fn is_new(&self) -> bool {
        self.encoded.is_none() && !self.encoding
    }
}

impl Sequence {
    fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        let prefix = match &self.role {
            Role::Window(prefix) => Some(&prefix.waiting),
            _ => None,
        };
        prefix.into_iter().flatten()
    }

    fn waiting_mut(&mut self) -> impl Iterator<Item = &mut Waiting> {
        let prefix = match &mut self.role {
            Role::Window(prefix) => Some(&mut prefix.waiting),
            _ => None,
        };
        prefix.into_iter().flatten()
    }

    /// Marks the inputs of a batch that is being encoded.
    pub fn mark_encoding(&mut self, batch: &[VisionInput]) {
        for waiting in self.waiting_mut() {
            waiting.encoding |= batch.iter().any(|input| same(input, &waiting.input));
        }
    }

    /// Whether it waits for an input of a batch that is being encoded.
    pub fn awaits(&self, batch: &[VisionInput]) -> bool {
        let mut encoding = self.waiting().filter(|w| w.encoding && w.encoded.is_none());
        encoding.any(|waiting| batch.iter().any(|input| same(input, &waiting.input)))
    }

    /// Vision inputs that the prompt does not have yet, in order.
    pub fn to_come(&self) -> impl Iterator<Item = &VisionInput> {
        self.waiting().map(|waiting| &waiting.input)
    }

    /// Vision inputs that are to be encoded, in order.
    pub fn inputs(&self) -> impl Iterator<Item = &VisionInput> {
        let new = self.waiting().filter(|waiting| waiting.is_new());
        new.map(|waiting| &waiting.input)
    }

    /// Whether an input of a batch is to be encoded for it.
    pub fn has_new(&self, batch: &[VisionInput]) -> bool {
        let mut inputs = self.inputs();
        inputs.any(|input| batch.iter().any(|other| same(other, input)))
    }

    /// What `find` knows of inputs that have not been encoded is theirs.
    pub fn encoded(&mut self, find: impl Fn(&VisionInput) -> Option<Encoded>) {
        for waiting in self.waiting_mut().filter(|w| w.encoded.is_none()) {
            waiting.encoded = find(&waiting.input);
        }
    }

    /// Adds a vision input that arrived at `now` with arrival number `since`.
    pub fn push(&mut self, input: VisionInput, since: u64, now: Instant) {
        if let Role::Window(prefix) = &mut self.role
            && prefix.refused.is_none()
        {
            prefix.pushed += 1;
            prefix.waiting.push_back(Waiting {
                input,
                since,
                encoding: false,
                encoded: None,
            });
            self.last_push = now;
        }
    }

    /// Takes no more inputs, because of one that cannot be taken. Requests about those before it go
    /// on.
    pub fn refuse_input(&mut self, failure: Failure) {
        match &mut self.role {
            Role::Window(prefix) if !prefix.asks.is_empty() => {
                prefix.refused.get_or_insert(failure);
            }
            _ => self.fail(failure),
        }
    }

    /// Takes a request about all inputs so far. `order` counts the requests of the engine.
    pub fn ask(&mut self, mut ask: Ask, order: u64) {
        if ask.request.max_tokens == 0 {
            let text = "max_tokens is 0, and an answer has at least one token".into();
            return ask.sink.send(Event::Failed(Failure::Invalid(text)));
        }
        match &mut self.role {
            Role::Window(Prefix {
                refused: Some(failure),
                ..
            }) => ask.sink.send(Event::Failed(failure.clone())),
            Role::Window(prefix) => {
                prefix.lost = None;
                prefix.asks.push_back(Queued {
                    ask,
                    order,
                    after: prefix.pushed,
                    prompt_tokens: OnceCell::new(),
                });
            }
            Role::Lost { failure, .. } => ask.sink.send(Event::Failed(failure.clone())),
            // Cannot happen: only windows are asked. Dropping the sink sends its terminal event.
            Role::Request(_) => (),
        }
    }

    /// Ends its inputs and requests.
    pub fn close(&mut self) {
        if let Role::Window(Prefix { open, .. }) | Role::Lost { open, .. } = &mut self.role {
            *open = false;
        }
    }

    /// Forgets a request that has not begun.
    pub fn cancel(&mut self, request: u64) {
        if let Role::Window(prefix) = &mut self.role {
            prefix.asks.retain(|queued| queued.ask.id != request);
        }
    }

    /// Puts into the prompt what is known of it by now: inputs that are encoded, up to those that a
    /// request is about. A window that was refused an input ends when it has no more requests.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub fn advance(
        &mut self,
        tokenizer: &Tokenizer,
        config: &Config,
    ) -> Result<(), TokenizerError> {
        while let Role::Window(prefix) = &mut self.role
            && !prefix.is_asked()
            && let Some(encoded) = prefix.waiting.front_mut().and_then(|w| w.encoded.take())
            && let Some(Waiting { input, .. }) = prefix.waiting.pop_front()
        {
            prefix.laid_out += 1;
            let chunk = self.input_chunk(&input, encoded, tokenizer, config)?;
            self.pending.append(chunk);
        }
        if let Role::Window(prefix) = &mut self.role
            && prefix.asks.is_empty()
            && let Some(failure) = prefix.refused.take()
        {
            self.fail(failure);
        }
        Ok(())
    }

    /// Whether nothing but one request is left of a window, which it
    /// [becomes](Sequence::become_request).
    pub fn is_last_asked(&self) -> bool {
        matches!(&self.role, Role::Window(prefix) if prefix.is_last_asked())
    }

    /// Whether it is a window into whose prompt inputs may still come.
    pub fn grows(&self) -> bool {
        matches!(&self.role, Role::Window(prefix) if prefix.grows())
    }

    /// A window becomes the request whose turn it is. If the tokenizer fails, the request has been
    /// told.
    pub fn become_request(&mut self, tokenizer: &Tokenizer) {
        if let Role::Window(prefix) = &mut self.role
            && let Some(Queued { ask, order, .. }) = prefix.asks.pop_front()
        {
            self.id = ask.id;
            self.role = Role::Request(Box::new(Answering::new(ask, order, tokenizer)));
            if let Err(error) = self.lay_out_request(tokenizer) {
                self.fail(Failure::Invalid(error.to_string()));
            }
        }
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

    /// Tokens that the request whose turn it is brings at most, if its inputs are all in the cache,
    /// or in the prompt if it is the last one.
    pub fn asked_tokens(&self, tokenizer: &Tokenizer) -> Option<usize> {
        let Role::Window(prefix) = &self.role else {
            return None;
        };
        if !prefix.is_asked() || !(prefix.is_last_asked() || self.pending.is_empty()) {
            return None;
        }
        let queued = prefix.asks.front()?;
        let request = &queued.ask.request;
        // A prompt that cannot be tokenized fails when the request begins.
        let count = || tokenizer.encode(&request.prompt).map_or(0, |ids| ids.len());
        let prompt = queued.prompt_tokens.get_or_init(count);
        let generated = request.reasoning_tokens.saturating_add(request.max_tokens);
        Some(prompt + TEMPLATE + generated as usize)
    }

    /// Blocks that the request whose turn it is needs beside those that the window has, if it
    /// brings so many tokens. A fork shares the full ones of the window, which the last request
    /// takes over.
    pub fn request_blocks(&self, tokens: usize, context: usize) -> usize {
        let all = self.own_blocks_for(self.tokens().saturating_add(tokens).min(context));
        let has = match self.is_last_asked() {
            true => self.own_blocks(),
            false => self.state.len() / BLOCK_TOKENS,
        };
        all.saturating_sub(has)
    }

    /// The next request as a fork, which shares the window's KV blocks. If the tokenizer fails, the
    /// request gets the failure.
    pub fn fork(&mut self, tokenizer: &Tokenizer) -> Option<Self> {
        let Role::Window(prefix) = &mut self.role else {
            return None;
        };
        let Queued { ask, order, .. } = prefix.asks.pop_front()?;
        let mut fork = Self {
            id: ask.id,
            window: self.window,
            interest: self.interest.clone(),
            role: Role::Request(Box::new(Answering::new(ask, order, tokenizer))),
            pending: Chunk::default(),
            state: self.state.fork(),
            fork: true,
            shared: self.state.len(),
            prompt: self.prompt.clone(),
            cursor: self.cursor.clone(),
            ids: self.ids.clone(),
            grid: self.grid,
            last_push: self.last_push,
            vision: self.vision,
            prefill: self.prefill,
        };
        if let Err(error) = fork.lay_out_request(tokenizer) {
            fork.fail(Failure::Invalid(error.to_string()));
        }
        Some(fork)
    }

    /// Fails the next request.
    pub fn refuse(&mut self, failure: Failure) {
        if let Role::Window(prefix) = &mut self.role
            && let Some(mut queued) = prefix.asks.pop_front()
        {
            queued.ask.sink.send(Event::Failed(failure));
        }
    }

    /// Ends it without an answer. The failure goes to its request or to those that wait; if it has
    /// none, to its [`LostSink`].
    pub fn fail(&mut self, failure: Failure) {
        match &mut self.role {
            Role::Request(answering) => answering.sink.send(Event::Failed(failure)),
            Role::Lost { .. } => (),
            Role::Window(prefix) => {
                let (open, lost) = (prefix.open, prefix.lost.take());
                let asks = std::mem::take(&mut prefix.asks);
                // First: what is told may panic.
                self.role = Role::Lost {
                    failure: failure.clone(),
                    open,
                };
                self.pending = Chunk::default();
                self.state.free();
                tell_all(lost, asks, &failure);
            }
        }
    }

    /// Whether it has ended: nothing more can come of it.
    pub fn ended(&self) -> bool {
        match &self.role {
            Role::Window(prefix) => !prefix.open && prefix.asks.is_empty(),
            Role::Lost { open, .. } => !open,
            Role::Request(answering) => answering.sink.ended(),
        }
    }
}

/// Tells all of the failure of their window, although some of them panic; goes on with the first
/// panic.
fn tell_all(lost: Option<LostSink>, asks: VecDeque<Queued>, failure: &Failure) {
    let told = lost.map_or(Ok(()), |lost| {
        catch_unwind(AssertUnwindSafe(|| lost(failure.clone())))
    });
    let told = asks.into_iter().fold(told, |told, mut queued| {
        let event = Event::Failed(failure.clone());
        let next = catch_unwind(AssertUnwindSafe(|| queued.ask.sink.send(event)));
        told.and(next)
    });
    if let Err(panic) = told {
        resume_unwind(panic);
    }
}
