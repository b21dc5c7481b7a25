//! An engine that is slower than the stream, or not loaded yet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use gst::prelude::*;
use gstqwenvl::testing::Stage;
use qwen3_vl_core::backend::manual::ManualBackend;

use crate::common::bench::Bench;
use crate::common::{Run, echo, hooks, in_time, loader, wait_until};

const SECOND: &[(&str, &str)] = &[
    ("window-duration", "1000000000"),
    ("min-frames", "2"),
    ("max-pending", "1"),
];

fn bench(overload: &str) -> (Bench, ManualBackend) {
    let backend = ManualBackend::default();
    let mut properties = SECOND.to_vec();
    properties.push(("overload", overload));
    let bench = Bench::new(hooks(Arc::new(backend.clone())), true, &properties).ready();
    (bench, backend)
}

fn dropped_ids(bench: &Bench) -> Vec<u64> {
    let dropped = bench.messages.named("qwenvl/dropped");
    dropped
        .iter()
        .map(|s| s.get("window-id").unwrap())
        .collect()
}

#[test]
fn drop_oldest_spares_the_window_that_is_being_answered() {
    for overload in ["drop-oldest", "auto"] {
        let (mut bench, backend) = bench(overload);
        bench.frames(0..4_000);
        bench.ended(2);
        assert_eq!(dropped_ids(&bench), [1, 2]);
        assert_eq!(bench.messages.dropped(), ["overload", "overload"]);
        let cancelled: Vec<bool> = (0..4)
            .map(|_| backend.take())
            .map(|a| {
                let cancelled = a.is_cancelled();
                a.answer();
                cancelled
            })
            .collect();
        assert_eq!(cancelled, [false, true, true, false]);
        bench.ended(4);
        assert_eq!(bench.messages.descriptions().len(), 2);
        // The answers to dropped windows were ignored.
        assert_eq!(bench.stat("late"), 2);
        bench.stop();
    }
}

/// An engine that answers several at once may be done with a later one first.
#[test]
fn answers_are_told_in_the_order_of_their_windows() {
    let (mut bench, backend) = bench("drop-newest");
    bench.frames(0..2_000);
    let (first, second) = (backend.take(), backend.take());
    second.answer();
    bench.frames(2_000..3_000);
    // The first one holds back the second, which no longer takes the place of one that waits.
    let third = backend.take();
    assert!(bench.messages.ids().is_empty());
    first.answer();
    bench.ended(2);
    third.end(qwen3_vl_core::event::Event::Cancelled);
    bench.ended(3);
    let told = |name: &str| -> Vec<u64> {
        let named = bench.messages.named(name).into_iter();
        named.map(|s| s.get("window-id").unwrap()).collect()
    };
    assert_eq!(told("qwenvl/description"), [0, 1]);
    assert_eq!(told("qwenvl/dropped"), [2]);
    bench.stop();
}

#[test]
fn at_the_end_what_has_its_answer_is_told() {
    let (mut bench, backend) = bench("drop-newest");
    bench.element.set_property("eos-timeout", 300_000_000u64);
    bench.frames(0..2_000);
    let (first, second) = (backend.take(), backend.take());
    second.answer();
    assert!(bench.eos_in_thread()());
    bench.ended(2);
    assert_eq!(bench.messages.dropped(), ["eos-timeout"]);
    assert_eq!(bench.messages.descriptions().len(), 1);
    assert!(first.is_cancelled());
    bench.stop();
}

#[test]
fn drop_newest_keeps_what_waits() {
    let (mut bench, backend) = bench("drop-newest");
    bench.frames(0..4_000);
    bench.ended(2);
    assert_eq!(dropped_ids(&bench), [2, 3]);
    assert_eq!(backend.waiting(), 2);
    bench.stop();
    assert_eq!(bench.messages.ids(), [0, 1, 2, 3]);
}

#[test]
fn block_holds_the_stream_and_drops_nothing() {
    let (mut bench, backend) = bench("block");
    let pad = bench.element.static_pad("sink").unwrap();
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        let flow: Result<Vec<_>, _> = (0..40).map(|i| pad.chain(Bench::buffer(i * 500))).collect();
        tx.send(flow.map(|all| all.len())).unwrap();
    });
    wait_until("two requests", || backend.waiting() == 2);
    // One is being answered, one waits, and no third window is made.
    assert_eq!(rx.try_recv(), Err(mpsc::TryRecvError::Empty));
    assert_eq!(backend.waiting(), 2);
    for _ in 0..20 {
        backend.take().answer();
    }
    let flow = in_time("the stream", move || rx.recv().unwrap());
    assert_eq!(flow, Ok(40));
    bench.ended(20);
    assert_eq!(bench.messages.descriptions().len(), 20);
    assert_eq!(bench.stat("skipped"), 0);
    bench.stop();
}

#[test]
fn a_blocked_stream_wakes_for_flush_and_state_change() {
    for flush in [true, false] {
        let (mut bench, backend) = bench("block");
        let pad = bench.element.static_pad("sink").unwrap();
        let thread = std::thread::spawn(move || {
            (0..40).find_map(|i| pad.chain(Bench::buffer(i * 500)).err())
        });
        wait_until("two requests", || backend.waiting() == 2);
        if flush {
            bench.event(gst::event::FlushStart::new());
        } else {
            bench.stop();
        }
        let error = in_time("the stream", move || thread.join().unwrap());
        assert_eq!(error, Some(gst::FlowError::Flushing));
        bench.stop();
        bench.messages.ids();
        assert_eq!(bench.messages.descriptions().len(), 0);
    }
}

#[test]
fn live_frames_before_the_model_are_dropped() {
    let loaded = Arc::new(AtomicBool::new(false));
    let gate = loaded.clone();
    let backend = ManualBackend::default();
    let model = backend.clone();
    let hooks = loader(move |_, _, cancel| {
        wait_until("permission", || {
            gate.load(Ordering::SeqCst) || cancel.load(Ordering::SeqCst)
        });
        Ok(Arc::new(model.clone()))
    });
    let mut bench = Bench::new(hooks, true, SECOND);
    bench.frames(0..1_500);
    bench.ended(1);
    assert_eq!(bench.messages.dropped(), ["loading"]);
    loaded.store(true, Ordering::SeqCst);
    let mut bench = bench.ready();
    // The window that was open when the model came lacks its first frames.
    bench.frames(1_500..3_000);
    backend.take().answer();
    bench.ended(3);
    assert_eq!(bench.messages.dropped(), ["loading", "loading"]);
    assert_eq!(bench.messages.ids(), [0, 1, 2]);
    bench.stop();
}

#[test]
fn frames_of_a_file_wait_for_the_model() {
    let hooks = loader(|_, _, _| {
        std::thread::sleep(Duration::from_millis(200));
        Ok(echo(Duration::ZERO))
    });
    for overload in ["auto", "drop-newest"] {
        let run = Run::new(
            &format!(
                "videotestsrc num-buffers=80 ! video/x-raw,framerate=10/1,width=64,height=64 \
                 ! qwenvl name=q overload={overload} ! fakesink"
            ),
            hooks.clone(),
        );
        // A file that is not held may lose frames, but not to the loading of the model.
        let messages = run.finish();
        assert!(
            !messages.dropped().contains(&"loading".to_owned()),
            "{messages:?}"
        );
        if overload == "auto" {
            assert_eq!(messages.descriptions().len(), 2);
        }
    }
}

#[test]
fn a_slow_engine_gets_every_window_of_a_file() {
    let run = Run::new(
        "videotestsrc num-buffers=100 ! video/x-raw,framerate=10/1,width=64,height=64 \
         ! qwenvl name=q window-duration=1000000000 ! fakesink",
        hooks(echo(Duration::from_millis(30))),
    );
    let messages = run.finish();
    assert_eq!(messages.ids(), (0..10).collect::<Vec<u64>>());
    assert_eq!(messages.descriptions().len(), 10);
    // Before EOS left.
    assert!(messages.eos);
}

#[test]
fn no_more_than_two_buffers_are_held() {
    let gate = Arc::new(AtomicBool::new(false));
    let open = gate.clone();
    let mut hooks = hooks(echo(Duration::ZERO));
    hooks.at = Arc::new(move |stage| {
        if stage == Stage::Worker {
            wait_until("permission", || open.load(Ordering::SeqCst));
        }
    });
    let mut bench = Bench::new(hooks, true, &[]).ready();
    let buffers: Vec<_> = (0..6).map(|i| Bench::buffer(i * 500)).collect();
    for buffer in &buffers {
        bench.harness.push(buffer.clone()).unwrap();
        drop(bench.harness.pull().unwrap());
    }
    // A buffer with another reference is read-only.
    let held: Vec<bool> = buffers
        .into_iter()
        .map(|mut buffer| buffer.get_mut().is_none())
        .collect();
    assert_eq!(held, [true, true, false, false, false, false]);
    assert_eq!((bench.stat("sampled"), bench.stat("copied")), (6, 4));
    gate.store(true, Ordering::SeqCst);
    bench.stop();
}
