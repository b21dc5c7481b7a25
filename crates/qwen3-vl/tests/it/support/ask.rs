//! Windows of synthetic clips for a backend, and their ends.
#![allow(dead_code, reason = "every test uses a part of it")]

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use qwen3_vl_core::EventSink;
use qwen3_vl_core::backend::{Backend, LostSink, RequestHandle, Window, WindowHead};
use qwen3_vl_core::clip::clip;
use qwen3_vl_core::event::{Answer, Event};
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::frames::{Frame, Size, VisionInput};
use qwen3_vl_core::request::{Request, SamplingParams};

/// Longest wait: an event that has not come by then never comes.
pub const WATCHDOG: Duration = Duration::from_secs(60);

pub const SMALL: Size = Size {
    width: 128,
    height: 96,
};

/// Pairs of clip `k`, two frames a second.
pub fn pairs(count: u32, size: Size, k: u32) -> Vec<VisionInput> {
    let frame = |t: u32| Frame {
        rgb: clip(t, size, k).into(),
        size,
        seconds: f64::from(t) / 2.0,
    };
    (0..count)
        .map(|i| VisionInput::Pair([frame(2 * i), frame(2 * i + 1)]))
        .collect()
}

/// A request that is sampled, so that its tokens depend on the logits more closely than greedy
/// ones.
pub fn question(temperature: f64, max_tokens: u32) -> Request {
    Request {
        prompt: "Describe this video.".into(),
        max_tokens,
        sampling: SamplingParams {
            temperature,
            ..SamplingParams::default()
        },
        seed: 7,
        emit_tokens: false,
        repetition_guard: 0,
    }
}

pub fn log() -> (EventSink, Receiver<Event>) {
    let (tx, rx) = channel();
    let sink = move |event| {
        let _ = tx.send(event);
    };
    (EventSink::new(sink), rx)
}

/// All events of a window, until the backend drops its sink.
pub fn events(rx: &Receiver<Event>) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        match rx.recv_timeout(WATCHDOG) {
            Ok(event) => all.push(event),
            Err(RecvTimeoutError::Disconnected) => return all,
            Err(RecvTimeoutError::Timeout) => panic!("no end after {all:?}"),
        }
    }
}

/// The terminal event, which must be the only one and the last.
pub fn end(rx: &Receiver<Event>) -> Event {
    let mut all = events(rx);
    let terminal = all.iter().filter(|event| event.is_terminal()).count();
    assert_eq!(terminal, 1, "{all:?}");
    let last = all.pop().unwrap();
    assert!(last.is_terminal(), "{all:?} after {last:?}");
    last
}

pub fn answer(rx: &Receiver<Event>) -> Answer {
    match end(rx) {
        Event::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

pub fn assert_fails(rx: &Receiver<Event>, failure: fn(String) -> Failure, text: &str) {
    match end(rx) {
        Event::Failed(found) => {
            let said = found.to_string();
            assert_eq!(found, failure(said.clone()), "the wrong kind");
            assert!(said.contains(text), "{said:?} does not say {text:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// Opens a window, pushes all inputs and makes a request.
pub fn ask(
    backend: &dyn Backend,
    inputs: Vec<VisionInput>,
    question: Request,
) -> (Box<dyn RequestHandle>, Receiver<Event>) {
    let (sink, rx) = log();
    let mut window = open(backend);
    for input in inputs {
        window.push(input);
    }
    (window.ask(question, sink), rx)
}

/// A window whose failures only its requests get.
pub fn open(backend: &dyn Backend) -> Box<dyn Window> {
    backend.open(WindowHead::default(), Box::new(|_| ()))
}

/// A sink for the failure of a window without a request, and its receiver.
pub fn lost() -> (LostSink, Receiver<Failure>) {
    let (tx, rx) = channel();
    let lost = move |failure| {
        let _ = tx.send(failure);
    };
    (Box::new(lost), rx)
}

pub fn assert_lost(rx: &Receiver<Failure>, failure: fn(String) -> Failure, text: &str) {
    let found = rx.recv_timeout(WATCHDOG).unwrap();
    assert_eq!(found, failure(found.to_string()), "the wrong kind");
    assert!(
        found.to_string().contains(text),
        "{found:?} does not say {text:?}"
    );
}
