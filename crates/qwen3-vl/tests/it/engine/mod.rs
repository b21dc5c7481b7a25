//! The engine through the trait `Backend`, with the demo model: answers, failures and ends of
//! windows.

mod answers;
mod any_order;
mod asks;
mod ends;
mod limits;
mod panics;
mod room;
mod thinking;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::ask::*;
use proptest::prelude::{Just, Strategy};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::engine::sequence::Sequence;
use qwen3_vl::load::{LoadOptions, ModelSource, load, load_runner};
use qwen3_vl::model::kv_cache::BLOCK_TOKENS;
use qwen3_vl::shared;
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_core::backend::{Backend, RequestHandle, Window, WindowHead};
use qwen3_vl_core::event::{Answer, Event, FinishReason};
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::frames::{Size, VisionInput};
use qwen3_vl_core::request::{Request, SamplingParams};
use qwen3_vl_core::{EventSink, KvMemory};

fn options() -> LoadOptions {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    LoadOptions {
        source: ModelSource::Folder(folder),
        mmproj: None,
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization: QuantizeAtLoad::None,
        compute: None,
        kv_memory: None,
    }
}

fn backend() -> Arc<dyn Backend> {
    load(&options(), &mut |_| (), &AtomicBool::new(false)).unwrap()
}

/// A backend whose KV cache has so many blocks.
fn backend_of(blocks: u64) -> Arc<dyn Backend> {
    let (_, runner) = load_runner(&options(), &mut |_| (), &AtomicBool::new(false)).unwrap();
    let options = LoadOptions {
        kv_memory: Some(KvMemory::Bytes(
            blocks * runner.parts.model.kv.block_bytes() as u64,
        )),
        ..options()
    };
    load(&options, &mut |_| (), &AtomicBool::new(false)).unwrap()
}

fn assert_cancelled(rx: &Receiver<Event>) {
    let end = end(rx);
    assert!(matches!(end, Event::Cancelled), "{end:?}");
}

fn assert_works(backend: &dyn Backend) {
    let (_, rx) = ask(backend, pairs(2, SMALL, 0), question(0.0, 4));
    assert!(!answer(&rx).tokens.is_empty());
}

/// A request whose answer stops at its first token until told to go on.
struct Stopped {
    handle: Box<dyn RequestHandle>,
    events: Receiver<Event>,
    go: Sender<()>,
}

impl Stopped {
    /// Makes a request of a new window; returns when the engine has stopped there.
    fn new(backend: &dyn Backend) -> Self {
        let mut window = open(backend);
        for pair in pairs(2, SMALL, 0) {
            window.push(pair);
        }
        Self::ask(&mut *window, question(0.0, 64))
    }

    /// Makes a request of a window that has its inputs.
    fn ask(window: &mut dyn Window, request: Request) -> Self {
        let (tx, events) = channel();
        let (go, gate) = channel::<()>();
        let (at_token, reached) = channel();
        let mut stopped = false;
        let sink = EventSink::new(move |event: Event| {
            let stop = !event.is_terminal() && !std::mem::replace(&mut stopped, true);
            let _ = tx.send(event);
            if stop {
                at_token.send(()).unwrap();
                gate.recv_timeout(WATCHDOG).unwrap();
            }
        });
        let request = Request {
            emit_tokens: true,
            ..request
        };
        let handle = window.ask(request, sink);
        reached.recv_timeout(WATCHDOG).unwrap();
        Self { handle, events, go }
    }
}

/// Waits, because the terminal event arrives before the engine has freed the window's blocks.
fn all_blocks_are_free(backend: &dyn Backend) {
    let start = Instant::now();
    while backend.kv_blocks() > 0 {
        assert!(start.elapsed() < WATCHDOG, "a window keeps its blocks");
        thread::yield_now();
    }
}
