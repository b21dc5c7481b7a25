//! Sequences without an engine's thread.

use std::time::Instant;

use qwen3_vl::engine::runner::Runner;
use qwen3_vl::engine::sequence::{Ask, Sequence};
use qwen3_vl_core::EventSink;
use qwen3_vl_core::backend::WindowHead;
use qwen3_vl_core::request::Request;

/// An empty window with the number `id`.
pub fn window(runner: &Runner, id: u64, head: &WindowHead) -> Sequence {
    let state = runner.parts.model.new_state();
    Sequence::new(id, head, Box::new(|_| ()), state)
}

/// Makes the last request of a window, at `at`, as number `order` of all. The answer is dropped.
pub fn ask(window: &mut Sequence, request: Request, order: u64, at: Instant) {
    let ask = Ask {
        id: window.id(),
        request,
        sink: EventSink::new(|_| {}),
        at,
        waiter: None,
    };
    window.ask(ask, order);
    window.close();
}
