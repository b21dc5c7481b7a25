//! The text that a request has generated: its thought, its answer, and how long each may be.

use std::mem;

use qwen3_vl_core::event::Event;
use qwen3_vl_core::reasoning::{Opening, Phase, ReasoningParser, Split};
use qwen3_vl_core::request::Request;

/// The generated text, and the tokens that each of its parts has and may have.
///
/// `</think>` counts in neither part, so at most `reasoning_tokens + 1 + max_tokens` are generated.
pub(super) struct Output {
    parser: ReasoningParser,
    reasoning: String,
    text: String,
    thought_tokens: u32,
    answer_tokens: u32,
    reasoning_tokens: u32,
    max_tokens: u32,
    /// Tokens without an event: the last one, or more if their part is undecided.
    waiting: Vec<u32>,
    /// What they add.
    added: Split,
    /// The part before the last one.
    before: Phase,
}

impl Output {
    pub(super) fn new(request: &Request, opening: Opening) -> Self {
        let parser = ReasoningParser::new(opening);
        Self {
            before: parser.phase(),
            parser,
            reasoning: String::new(),
            text: String::new(),
            thought_tokens: 0,
            answer_tokens: 0,
            reasoning_tokens: request.reasoning_tokens,
            max_tokens: request.max_tokens,
            waiting: Vec::new(),
            added: Split::default(),
        }
    }

    /// Tokens that may still be generated.
    pub(super) fn left(&self) -> usize {
        let answer = self.max_tokens.saturating_sub(self.answer_tokens) as usize;
        let thought = self.reasoning_tokens.saturating_sub(self.thought_tokens) as usize;
        match self.parser.phase() {
            Phase::Answer => answer,
            Phase::Thought | Phase::Undecided => answer.saturating_add(thought).saturating_add(1),
        }
    }

    /// Whether the thought has all its tokens, so that `</think>` must be next.
    ///
    /// vLLM (`thinking_token_budget`), SGLang, llama.cpp (`--reasoning-budget`) and TensorRT-LLM
    /// force the end of a thought in the same way. An end of the request there would waste all its
    /// tokens, because a thought without an end has no answer.
    pub(super) fn must_answer(&self) -> bool {
        self.parser.phase() == Phase::Thought && self.thought_tokens >= self.reasoning_tokens
    }

    /// Whether the answer has all its tokens.
    pub(super) fn is_full(&self) -> bool {
        self.parser.phase() != Phase::Thought && self.answer_tokens >= self.max_tokens
    }

    /// Adds a token, which may be a stop token, and the text that it completes.
    pub(super) fn push(&mut self, id: u32, text: &str) {
        self.before = self.parser.phase();
        self.waiting.push(id);
        let split = self.parser.push(text);
        self.add(&split);
        match (self.before, self.parser.phase()) {
            (_, Phase::Thought) => self.thought_tokens = self.thought_tokens.saturating_add(1),
            (Phase::Thought, _) => (),
            _ => self.answer_tokens = self.answer_tokens.saturating_add(1),
        }
    }

    /// The events of tokens whose part is certain.
    pub(super) fn events(&mut self) -> Vec<Event> {
        match self.parser.phase() {
            Phase::Undecided => Vec::new(),
            _ => self.all_events(),
        }
    }

    /// Adds the rest of the text. Returns the last events.
    pub(super) fn finish(&mut self, rest: &str) -> Vec<Event> {
        for split in [self.parser.push(rest), self.parser.finish()] {
            self.add(&split);
        }
        self.all_events()
    }

    fn add(&mut self, Split { reasoning, answer }: &Split) {
        self.reasoning.push_str(reasoning);
        self.text.push_str(answer);
        self.added.reasoning.push_str(reasoning);
        self.added.answer.push_str(answer);
    }

    /// A token that completes text of both parts, which no vocabulary of Qwen's has, is one of the
    /// answer.
    fn all_events(&mut self) -> Vec<Event> {
        let Split { reasoning, answer } = mem::take(&mut self.added);
        let thought = self.parser.thinks() && self.before != Phase::Answer;
        let of_thought = thought && answer.is_empty();
        let mut ids = mem::take(&mut self.waiting);
        let last = ids.pop().map(|id| Event::Token {
            id,
            text: if of_thought { reasoning } else { answer },
            reasoning: of_thought,
        });
        let before = ids.into_iter().map(|id| Event::Token {
            id,
            text: String::new(),
            reasoning: thought,
        });
        before.chain(last).collect()
    }

    /// The thought, if there is one, and the answer.
    pub(super) fn take(&mut self) -> (Option<String>, String) {
        let reasoning = mem::take(&mut self.reasoning);
        let reasoning = self.parser.thinks().then_some(reasoning);
        (reasoning, mem::take(&mut self.text))
    }
}
