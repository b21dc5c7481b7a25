//! A window: inputs that are not in the prompt yet, and the requests that wait for them.

use std::collections::VecDeque;
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

/// Most tokens of the chat template behind a prompt.
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
    /// Counts the pushed inputs, and those of them that are in the prompt.
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
}

impl Prefix {
    pub(super) fn new(lost: LostSink) -> Self {
        Self {
            lost: Some(lost),
            open: true,
            waiting: VecDeque::new(),
            asks: VecDeque::new(),
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

    /// Whether it is closed and its only request has all inputs.
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

    /// Takes the tokens that `find` has for inputs that are not encoded.
    pub fn encoded(&mut self, find: impl Fn(&VisionInput) -> Option<Encoded>) {
        for waiting in self.waiting_mut().filter(|w| w.encoded.is_none()) {
            waiting.encoded = find(&waiting.input);
        }
    }

    /// Adds a vision input that arrived at `now` with arrival number `since`.
    pub fn push(&mut self, input: VisionInput, since: u64, now: Instant) {
        if let Role::Window(prefix) = &mut self.role {
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

    /// Queues a request about all inputs so far. `order` counts the engine's requests.
    pub fn ask(&mut self, mut ask: Ask, order: u64) {
        match &mut self.role {
            Role::Window(prefix) => {
                prefix.lost = None;
                prefix.asks.push_back(Queued {
                    ask,
                    order,
                    after: prefix.pushed,
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

    /// Appends encoded inputs to the prompt, up to those of the next request. A closed window with
    /// one request left becomes that request.
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
            && prefix.is_last_asked()
            && let Some(Queued { ask, order, .. }) = prefix.asks.pop_front()
        {
            self.id = ask.id;
            self.role = Role::Request(Box::new(Answering::new(ask, order)));
            self.lay_out_request(tokenizer)?;
        }
        Ok(())
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

    /// Most tokens that the next request adds, if its inputs are all in the KV cache. None for the
    /// last request, which the window becomes.
    pub fn asked_tokens(&self, tokenizer: &Tokenizer) -> Option<usize> {
        let Role::Window(prefix) = &self.role else {
            return None;
        };
        if !prefix.is_asked() || prefix.is_last_asked() || !self.pending.is_empty() {
            return None;
        }
        let request = &prefix.asks.front()?.ask.request;
        // A prompt that cannot be tokenized fails when the request begins.
        let prompt = tokenizer.encode(&request.prompt).map_or(0, |ids| ids.len());
        Some(prompt + TEMPLATE + request.max_tokens as usize)
    }

    /// KV blocks that a fork with `tokens` more tokens needs beside those that it shares.
    pub fn fork_blocks(&self, tokens: usize) -> usize {
        let all = self.own_blocks_for(self.tokens().saturating_add(tokens));
        all.saturating_sub(self.state.len() / BLOCK_TOKENS)
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
            role: Role::Request(Box::new(Answering::new(ask, order))),
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
                let open = prefix.open;
                if let Some(lost) = prefix.lost.take() {
                    lost(failure.clone());
                }
                for mut queued in prefix.asks.drain(..) {
                    queued.ask.sink.send(Event::Failed(failure.clone()));
                }
                self.role = Role::Lost { failure, open };
                self.pending = Chunk::default();
                self.state.free();
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
