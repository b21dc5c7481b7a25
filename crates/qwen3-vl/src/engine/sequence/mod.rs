//! A sequence of tokens in the engine: a window, which is a growing prefix, or a request about one.

mod answer;
mod output;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use qwen3_vl_core::EventSink;
use qwen3_vl_core::backend::{LostSink, WindowHead};
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::prompt::{Piece, PositionCursor, PromptBuilder};
use qwen3_vl_core::request::Request;

use super::interrupt::{Interest, Waiter};
use super::scheduler::SequenceStatus;
use super::vision_cache::Encoded;
use crate::model::kv_cache::BLOCK_TOKENS;
use crate::model::{Chunk, SequenceState};
use crate::tokenizer::{Tokenizer, TokenizerError};
use answer::Answering;
use window::Prefix;

/// A window from `open` to its last request, or a request from its fork to its terminal event.
pub struct Sequence {
    id: u64,
    /// The window that it belongs to: itself, or the one that it is a fork of.
    window: u64,
    interest: Option<Arc<Interest>>,
    role: Role,
    /// Tokens that are not in the cache yet.
    pending: Chunk,
    /// The layers' states for its tokens, such as KV blocks.
    pub(super) state: SequenceState,
    /// Whether it is a fork of its window, and how many tokens it shares with it.
    fork: bool,
    shared: usize,
    prompt: PromptBuilder,
    cursor: PositionCursor,
    /// Ids of all its tokens: the prompt, then the generated ones.
    ids: Vec<u32>,
    grid: [u32; 3],
    last_push: Instant,
    /// Time of its inputs in the vision encoder.
    pub vision: Duration,
    /// Time of its prefill passes.
    pub prefill: Duration,
}

enum Role {
    /// A window that takes inputs and requests.
    Window(Prefix),
    /// A window that failed; later requests get the same failure.
    Lost { failure: Failure, open: bool },
    /// A request.
    Request(Box<Answering>),
}

/// A request that has not begun.
pub struct Ask {
    /// Its id, unique among windows and requests.
    pub id: u64,
    /// The prompt and settings.
    pub request: Request,
    /// Where its events go.
    pub sink: EventSink,
    /// When it was asked.
    pub at: Instant,
    /// Counts as a waiter of the window until the request has ended.
    pub waiter: Option<Arc<Waiter>>,
}

impl Sequence {
    /// An empty window. `lost` receives its failure if it has no request.
    pub fn new(id: u64, head: &WindowHead, lost: LostSink, state: SequenceState) -> Self {
        Self {
            id,
            window: id,
            interest: None,
            role: Role::Window(Prefix::new(lost)),
            pending: Chunk::default(),
            state,
            fork: false,
            shared: 0,
            prompt: PromptBuilder::new(head.layout, head.system_prompt.as_deref()),
            cursor: PositionCursor::default(),
            ids: Vec::new(),
            grid: [0; 3],
            last_push: Instant::now(),
            vision: Duration::ZERO,
            prefill: Duration::ZERO,
        }
    }

    /// The same window, whose steps may be interrupted when it has no waiters.
    #[must_use]
    pub fn of_interest(mut self, interest: Arc<Interest>) -> Self {
        self.interest = Some(interest);
        self
    }

    /// The waiters of its window; none if it is always wanted.
    pub fn interest(&self) -> Option<Arc<Interest>> {
        self.interest.clone()
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The id of its window.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Whether it is a request that shares KV blocks of its window.
    pub fn is_fork(&self) -> bool {
        self.fork
    }

    /// Whether it needs KV blocks.
    pub fn needs_blocks(&self) -> bool {
        !matches!(self.role, Role::Lost { .. })
    }

    /// Tokens so far: prompt and answer.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// KV blocks that it needs so far, less those that it shares.
    pub fn own_blocks(&self) -> usize {
        self.own_blocks_for(self.tokens())
    }

    /// Blocks that it shares with its window, if it is a fork.
    pub fn shared_blocks(&self) -> usize {
        self.shared / BLOCK_TOKENS
    }

    /// Blocks that it will need at most, less those that its window has. Of a window, those of its
    /// prefix so far.
    pub fn most_blocks(&self, context: usize) -> usize {
        let answer = match &self.role {
            Role::Request(answering) => answering.left(),
            _ => 0,
        };
        self.own_blocks_for(self.tokens().saturating_add(answer).min(context))
    }

    fn own_blocks_for(&self, tokens: usize) -> usize {
        if !self.needs_blocks() {
            return 0;
        }
        tokens
            .div_ceil(BLOCK_TOKENS)
            .saturating_sub(self.shared_blocks())
    }

    /// Tokens in the KV cache.
    pub fn cached(&self) -> usize {
        self.state.len()
    }

    /// Its status for the scheduler.
    pub fn status(&self) -> SequenceStatus {
        let (waiting, since, closed) = match &self.role {
            Role::Window(prefix) => prefix.state(),
            Role::Lost { .. } => (0, 0, None),
            Role::Request(answering) => (0, 0, Some(answering.order)),
        };
        SequenceStatus {
            id: self.id,
            waiting,
            since,
            pending: self.pending.len(),
            closed,
            decoding: self.decoding(),
        }
    }

    /// Takes the next tokens, at most `count`, for a pass that begins at `now`.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn take(&mut self, count: usize, now: Instant) -> candle_core::Result<Chunk> {
        if let Role::Request(answering) = &mut self.role {
            answering.begins(now);
        }
        self.pending.take(count)
    }

    /// Adds the time of a pass to its prefill time, unless it decodes.
    pub fn passed(&mut self, time: Duration) {
        if !self.decoding() {
            self.prefill += time;
        }
    }

    /// Tokenizes the pieces of the prompt that are complete, with an input's vision tokens and the
    /// id of their placeholder.
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
                // Every tokenizer of a model that thinks has it.
                Piece::Think => tokenizer.think().into_iter().collect(),
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
}
