//! Some tokens in the engine: a window, which is a growing prefix, or a request about one.

mod answer;
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
    /// What its tokens left behind in the layers.
    pub(super) state: SequenceState,
    /// Whether it shares its window's cache, and so many tokens of it.
    fork: bool,
    shared: usize,
    prompt: PromptBuilder,
    cursor: PositionCursor,
    /// Every id in the cache, then the generated ones.
    ids: Vec<u32>,
    grid: [u32; 3],
    last_push: Instant,
    /// Time spent in the vision encoder.
    pub vision: Duration,
    /// Time spent in prefill.
    pub prefill: Duration,
}

enum Role {
    /// A window that takes inputs and requests.
    Window(Prefix),
    /// A window that failed, which its later requests are told.
    Lost { failure: Failure, open: bool },
    /// A request.
    Request(Box<Answering>),
}

/// A request on its way.
pub struct Ask {
    /// Its number, among those of windows.
    pub id: u64,
    /// What is asked.
    pub request: Request,
    /// Where its events go.
    pub sink: EventSink,
    /// When it was asked.
    pub at: Instant,
    /// Says whether somebody waits for it.
    pub waiter: Option<Arc<Waiter>>,
}

impl Sequence {
    /// An empty window. `lost` hears of its failure, if no request does.
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

    /// The same window, whose steps end when nobody waits for it.
    #[must_use]
    pub fn of_interest(mut self, interest: Arc<Interest>) -> Self {
        self.interest = Some(interest);
        self
    }

    /// Who waits for its window; none if it is always wanted.
    pub fn interest(&self) -> Option<Arc<Interest>> {
        self.interest.clone()
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The number of its window.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Whether it is a request that shares the cache of its window.
    pub fn is_fork(&self) -> bool {
        self.fork
    }

    /// Whether it needs room in the cache.
    pub fn needs_room(&self) -> bool {
        !matches!(self.role, Role::Lost { .. })
    }

    /// Tokens so far: prompt and answer.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Blocks of the cache that it needs so far, less those that its window has.
    pub fn own_blocks(&self) -> usize {
        self.own_blocks_for(self.tokens())
    }

    /// Blocks that it shares with its window, if it is a fork.
    pub fn shared_blocks(&self) -> usize {
        self.shared / BLOCK_TOKENS
    }

    /// Blocks that it will need at most, less those that its window has. Of a window, those of its prefix
    /// so far.
    pub fn most_blocks(&self, context: usize) -> usize {
        let answer = match &self.role {
            Role::Request(answering) => answering.left(),
            _ => 0,
        };
        self.own_blocks_for(self.tokens().saturating_add(answer).min(context))
    }

    fn own_blocks_for(&self, tokens: usize) -> usize {
        if !self.needs_room() {
            return 0;
        }
        tokens
            .div_ceil(BLOCK_TOKENS)
            .saturating_sub(self.shared_blocks())
    }

    /// Tokens that the model has seen.
    pub fn cached(&self) -> usize {
        self.state.len()
    }

    /// What the scheduler sees.
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

    /// Takes the next tokens for a pass that begins at `now`, at most `count`.
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

    /// Counts the time of a pass that it was in.
    pub fn passed(&mut self, time: Duration) {
        if !self.decoding() {
            self.prefill += time;
        }
    }

    /// Puts the pieces of the prompt that are certain behind the others, with the tokens of an input and
    /// the id that stands for them.
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
}
