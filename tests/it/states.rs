//! State changes down and up while the model loads, frames are converted and answers are awaited;
//! and leaks of an element.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstqwenvl::testing::Hooks;
use qwen3_vl_core::backend::manual::{Asked, Call, ManualBackend};

use crate::common::bench::Bench;
use crate::common::{self, Run, echo, hooks, in_time, loader, wait_until};

/// The limit of a state change in these tests; the promise is a second.
const LIMIT: Duration = Duration::from_secs(5);

/// Goes down and comes up again.
pub fn down_and_up(bench: &mut Bench, down: gst::State) {
    let element = bench.element.clone();
    let took = in_time("down and up", move || {
        element.set_state(gst::State::Paused).unwrap();
        let begin = Instant::now();
        element.set_state(down).unwrap();
        let took = begin.elapsed();
        element.set_state(gst::State::Paused).unwrap();
        took
    });
    assert!(took < LIMIT, "{took:?}");
    // An upstream that went down as well would send these.
    for event in [
        gst::event::StreamStart::new("again"),
        gst::event::Caps::new(&common::bench::CAPS.parse().unwrap()),
        gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()),
    ] {
        bench.event(event);
    }
    bench.collect();
}

/// A loader that ends when the flag rises.
fn gated() -> (Hooks, ManualBackend, Arc<AtomicBool>) {
    let go_on = Arc::new(AtomicBool::new(false));
    let gate = go_on.clone();
    let backend = ManualBackend::default();
    let model = backend.clone();
    let hooks = loader(move |_, _, _| {
        wait_until("permission", || gate.load(Ordering::SeqCst));
        Ok(Arc::new(model.clone()))
    });
    (hooks, backend, go_on)
}

/// The loader may be in a download that notices its cancellation late.
#[test]
fn while_a_loader_does_not_notice() {
    let (hooks, backend, go_on) = gated();
    // Not live: the streaming thread waits for the model.
    let mut bench = Bench::new(hooks, false, &[]);
    for down in [gst::State::Ready, gst::State::Null, gst::State::Ready] {
        let pad = bench.element.static_pad("sink").unwrap();
        let stream = thread::spawn(move || pad.chain(Bench::buffer(0)));
        wait_until("the frame", || bench.stat("frames") == 1);
        down_and_up(&mut bench, down);
        let flow = in_time("the frame", move || stream.join().unwrap());
        assert_eq!(flow, Err(gst::FlowError::Flushing));
    }
    // Four loads end now; only the last is wanted.
    go_on.store(true, Ordering::SeqCst);
    bench.frames(0..4_000);
    backend.take().answer();
    bench.ended(1);
    assert_eq!(bench.messages.descriptions().len(), 1);
    let loads = |bench: &mut Bench, kind| {
        bench.collect();
        let all = bench.messages.progress.iter();
        all.filter(|(k, _)| *k == kind).count()
    };
    wait_until("the other loaders", || {
        loads(&mut bench, gst::ProgressType::Canceled) == 3
    });
    assert_eq!(loads(&mut bench, gst::ProgressType::Complete), 1);
    assert!(bench.messages.errors.is_empty());
    bench.stop();
}

#[test]
fn while_answers_are_awaited() {
    let backend = ManualBackend::default();
    let mut bench = Bench::new(hooks(Arc::new(backend.clone())), true, &[]);
    for (round, down) in [gst::State::Ready, gst::State::Null]
        .into_iter()
        .enumerate()
    {
        bench = bench.ready();
        // One window is asked, one open.
        bench.frames(0..5_000);
        wait_until("the request", || backend.waiting() == 1);
        bench.messages.progress.clear();
        down_and_up(&mut bench, down);
        // Every window has ended when the state change has.
        assert_eq!(bench.messages.ids().len(), 2 * (round + 1));
        let late = backend.take();
        assert!(late.is_cancelled());
        late.answer();
    }
    assert!(
        bench
            .messages
            .dropped()
            .iter()
            .all(|why| why == "cancelled")
    );
    bench = bench.ready();
    bench.frames(0..4_000);
    backend.take().answer();
    bench.ended(5);
    // Ids go on over all runs, and late answers are in no message.
    assert_eq!(bench.messages.ids(), [0, 1, 2, 3, 4]);
    assert_eq!(bench.messages.descriptions().len(), 1);
    bench.stop();
}

/// EOS must not wait for frames that the stuck engine never let into a window.
#[test]
fn eos_timeout_counts_for_frames_that_wait_for_the_engine() {
    let backend = ManualBackend::default();
    let properties = [
        ("window-duration", "1000000000"),
        ("min-frames", "2"),
        ("max-pending", "0"),
        ("eos-timeout", "50000000"),
    ];
    let mut bench = Bench::new(hooks(Arc::new(backend.clone())), false, &properties).ready();
    // One window is asked, and eight frames wait.
    for i in 0..10 {
        bench.push(i * 500).unwrap();
    }
    wait_until("the request", || backend.waiting() == 1);
    assert!(bench.eos_in_thread()());
    bench.collect();
    assert_eq!(bench.messages.dropped(), ["eos-timeout"]);
    assert_eq!((bench.stat("skipped"), bench.stat("outstanding")), (8, 0));
    bench.stop();
}

/// No state change waits for the backend, in any of its calls.
#[test]
fn while_the_backend_does_not_return() {
    for call in [Call::Open, Call::Push, Call::Ask] {
        let (go_on, gate) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let mut backend = ManualBackend::default();
        let (waits, opened) = (go_on.clone(), gate.clone());
        backend.at = Arc::new(move |at| {
            if at == call && !waits.load(Ordering::SeqCst) {
                opened.store(true, Ordering::SeqCst);
                wait_until("permission", || waits.load(Ordering::SeqCst));
            }
        });
        let mut bench = Bench::new(hooks(Arc::new(backend.clone())), true, &[]).ready();
        for ms in (0..5_000).step_by(500) {
            bench.push(ms).unwrap();
        }
        wait_until("the call", || gate.load(Ordering::SeqCst));
        let begin = Instant::now();
        bench.stop();
        assert!(begin.elapsed() < LIMIT, "{call:?}: {:?}", begin.elapsed());
        // It plays again meanwhile, with windows of its own.
        bench.element.set_state(gst::State::Paused).unwrap();
        go_on.store(true, Ordering::SeqCst);
        down_and_up(&mut bench, gst::State::Ready);
        wait_until("the model", || bench.stat("sharing") > 0);
        bench.frames(0..4_000);
        wait_until("the end of all windows", || {
            backend.try_take().into_iter().for_each(Asked::answer);
            bench.collect();
            let ids = bench.messages.ids();
            !bench.messages.descriptions().is_empty()
                && ids == (0..ids.len() as u64).collect::<Vec<_>>()
        });
        bench.stop();
    }
}

/// Frames come before the model is loaded: the first described window begins with the model.
#[test]
fn the_first_live_window_begins_when_the_model_is_there() {
    let (hooks, backend, go_on) = gated();
    let mut bench = Bench::new(hooks, true, &[]);
    bench.frames(0..1_500);
    go_on.store(true, Ordering::SeqCst);
    bench = bench.ready();
    bench.ended(1);
    assert_eq!(bench.messages.dropped(), ["loading"]);
    bench.frames(1_500..5_500);
    let asked = backend.take();
    assert_eq!(asked.inputs.len(), 4);
    asked.answer();
    bench.ended(2);
    let start: u64 = bench.messages.descriptions()[0].get("start-pts").unwrap();
    assert_eq!(start, 1_500_000_000);
    bench.stop();
}

const CHILD: &str = "QWENVL_TEST_CHILD";

/// A leaked object, or a warning of GLib, ends the child with an error.
#[test]
fn nothing_leaks() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "states::one_run",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD, "1")
        .env("GST_TRACERS", "leaks")
        .env("GST_DEBUG", "GST_TRACER:7")
        .env("G_DEBUG", "fatal-warnings")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    // The tracer was there.
    assert!(told.contains("object-alive.class"), "{told}");
}

/// A short run with windows, flushes, requests, metas and a failed load, in a child process of the
/// test before. On its own it does nothing.
#[test]
fn one_run() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let line = "videotestsrc num-buffers=80 ! video/x-raw,width=64,height=64,framerate=10/1 \
                ! qwenvl name=q emit-tokens=true ! tee name=t ! queue ! fakesink \
                t. ! queue ! fakesink";
    let run = Run::new(line, hooks(echo(Duration::from_millis(5))));
    assert_eq!(run.finish().descriptions().len(), 2);
    for down in [gst::State::Ready, gst::State::Null] {
        run.set_state(gst::State::Playing).unwrap();
        run.pipeline
            .state(gst::ClockTime::from_seconds(60))
            .0
            .unwrap();
        let flags = gst::SeekFlags::FLUSH;
        run.pipeline
            .seek_simple(flags, gst::ClockTime::ZERO)
            .unwrap();
        run.set_state(down).unwrap();
    }
    drop(run);

    let backend = ManualBackend::default();
    let mut bench = Bench::new(hooks(Arc::new(backend.clone())), true, &[]).ready();
    bench.frames(0..9_000);
    backend.take().answer();
    bench.ended(1);
    bench.frames(9_000..9_500);
    bench.stop();
    // What lies on a bus holds the element, which holds the bus.
    let bus = bench.bus.clone();
    drop((bench, backend));
    bus.set_flushing(true);
    drop(bus);

    let failing = loader(|_, _, _| Err(qwen3_vl_core::load::LoadError::NotFound("nothing".into())));
    let run = Run::new(line, failing);
    assert_eq!(run.finish().errors.len(), 1);
    drop(run);
    // SAFETY: every thread of GStreamer has ended, and the process ends after this.
    unsafe { gst::deinit() };
}
