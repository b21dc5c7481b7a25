//! The signal `description`.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;
use qwen3_vl_core::backend::manual::ManualBackend;
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;

use crate::common::bench::Bench;
use crate::common::{Messages, Run, WATCHDOG, echo, hooks, in_time};

fn bench(properties: &[(&str, &str)]) -> (Bench, ManualBackend) {
    let backend = ManualBackend::default();
    let mut all = vec![("window-duration", "1000000000"), ("min-frames", "2")];
    all.extend(properties);
    let bench = Bench::new(hooks(Arc::new(backend.clone())), true, &all).ready();
    (bench, backend)
}

/// Calls `handler` with every emission.
fn connect(bench: &Bench, handler: impl Fn(&gst::Element, gst::Structure) + Send + Sync + 'static) {
    bench.element.connect("description", false, move |values| {
        handler(&values[0].get().unwrap(), values[1].get().unwrap());
        None
    });
}

/// A handler that reports its call and then waits for the test.
struct Blocked {
    called: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
}

impl Blocked {
    fn connect(bench: &Bench) -> Self {
        let (call, called) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let released = Mutex::new(released);
        connect(bench, move |_, _| {
            call.send(()).unwrap();
            released.lock().unwrap().recv_timeout(WATCHDOG).unwrap();
        });
        Self { called, release }
    }

    fn wait(&self) {
        self.called.recv_timeout(WATCHDOG).unwrap();
    }

    fn release(&self) {
        self.release.send(()).unwrap();
    }
}

#[test]
fn every_description_is_emitted_once_and_equals_its_message() {
    let (mut bench, backend) = bench(&[("emit-tokens", "true")]);
    let emitted = Arc::new(Mutex::new(Vec::new()));
    connect(&bench, {
        let (emitted, own) = (emitted.clone(), bench.element.clone());
        move |element, structure| {
            assert_eq!(*element, own);
            emitted.lock().unwrap().push(structure);
        }
    });
    bench.frames(0..3_500);
    let mut first = backend.take();
    first.token(1, "piece");
    first.answer();
    backend.take().answer();
    // Neither this one nor the one that the stop drops has a description.
    let failure = Failure::Invalid("too many tokens".into());
    backend.take().end(Event::Failed(failure));
    bench.ended(3);
    bench.stop();
    assert_eq!(bench.messages.dropped(), ["error", "cancelled"]);
    let emitted = emitted.lock().unwrap();
    assert_eq!(emitted.len(), 2);
    assert_eq!(
        emitted.iter().collect::<Vec<_>>(),
        bench.messages.descriptions()
    );
}

#[test]
fn a_handler_may_use_the_element() {
    let (mut bench, backend) = bench(&[]);
    let (tx, rx) = mpsc::channel();
    connect(&bench, move |element, structure| {
        let text: String = structure.get("text").unwrap();
        element.set_property("prompt", format!("After: {text}"));
        element.set_property("window-duration", 2_000_000_000_u64);
        let stats: gst::Structure = element.property("stats");
        let sink = element.static_pad("sink").unwrap();
        let flushed = sink.send_event(gst::event::FlushStart::new())
            && sink.send_event(gst::event::FlushStop::new(true));
        tx.send((stats.get::<u64>("described"), flushed)).unwrap();
    });
    bench.frames(0..1_000);
    backend.take().answer();
    let seen = rx.recv_timeout(WATCHDOG).unwrap();
    assert_eq!(seen, (Ok(1), true));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    bench.event(gst::event::Segment::new(&segment));
    bench.frames(0..2_000);
    let next = backend.take();
    assert_eq!(next.request.prompt, "After: Describe this video.");
    assert_eq!(next.inputs.len(), 2);
    bench.stop();
}

#[test]
fn a_blocked_handler_holds_no_live_video() {
    let (mut bench, backend) = bench(&[]);
    let blocked = Blocked::connect(&bench);
    bench.frames(0..1_000);
    backend.take().answer();
    blocked.wait();
    // More than the queue to the worker takes.
    for ms in (1_000..21_000).step_by(500) {
        bench.push(ms).unwrap();
        bench.harness.pull().unwrap();
    }
    assert!(bench.stat("skipped") > 0);
    bench.collect();
    // The message does not wait for the handler.
    assert_eq!(bench.messages.descriptions().len(), 1);
    blocked.release();
    backend.take();
    bench.stop();
}

#[test]
fn eos_comes_after_the_last_handler() {
    let (mut bench, backend) = bench(&[]);
    let blocked = Blocked::connect(&bench);
    bench.frames(0..1_000);
    let (done, ended) = mpsc::channel();
    let eos = bench.eos_in_thread();
    let eos = thread::spawn(move || {
        let sent = eos();
        done.send(()).unwrap();
        sent
    });
    backend.take().answer();
    blocked.wait();
    // Time for a fault to show.
    thread::sleep(Duration::from_millis(50));
    assert_eq!(ended.try_recv(), Err(mpsc::TryRecvError::Empty));
    blocked.release();
    assert!(eos.join().unwrap());
    bench.stop();
}

#[test]
fn stopping_waits_for_the_handler_and_for_nothing_else() {
    let (mut bench, backend) = bench(&[]);
    let blocked = Blocked::connect(&bench);
    bench.frames(0..2_000);
    backend.take().answer();
    blocked.wait();
    let element = bench.element.clone();
    let stop = thread::spawn(move || element.set_state(gst::State::Null));
    // Longer than anything else is waited for.
    thread::sleep(Duration::from_millis(900));
    assert!(!stop.is_finished());
    blocked.release();
    in_time("stopping", move || stop.join().unwrap()).unwrap();
    bench.collect();
    assert_eq!(bench.messages.descriptions().len(), 1);
    assert_eq!(bench.messages.dropped(), ["cancelled"]);
}

/// It may itself wait for the state change, as for the pipeline's state lock.
#[test]
fn stopping_gives_up_a_handler_that_does_not_return() {
    let (mut bench, backend) = bench(&[]);
    let blocked = Blocked::connect(&bench);
    bench.frames(0..3_000);
    backend.take().answer();
    blocked.wait();
    backend.take().answer();
    let element = bench.element.clone();
    let begin = Instant::now();
    in_time("stopping", move || element.set_state(gst::State::Null)).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10));
    blocked.release();
    bench.ended(3);
    // No other description is posted, although its answer was there.
    assert_eq!(bench.messages.descriptions().len(), 1);
    assert_eq!(bench.messages.dropped(), ["cancelled"; 2]);
    assert!(blocked.called.try_recv().is_err());
    bench.stop();
}

#[test]
fn eos_does_not_wait_for_a_handler_for_ever() {
    let (mut bench, backend) = bench(&[("eos-timeout", "50000000")]);
    let blocked = Blocked::connect(&bench);
    bench.frames(0..2_000);
    backend.take().answer();
    blocked.wait();
    assert!(bench.eos_in_thread()());
    blocked.release();
    bench.ended(2);
    assert_eq!(bench.messages.dropped(), ["eos-timeout"]);
    bench.stop();
}

#[test]
fn a_handler_may_end_the_stream() {
    let (mut bench, backend) = bench(&[]);
    let (tx, rx) = mpsc::channel();
    connect(&bench, move |element, _| {
        let sink = element.static_pad("sink").unwrap();
        tx.send(sink.send_event(gst::event::Eos::new())).unwrap();
    });
    bench.frames(0..2_000);
    backend.take().answer();
    assert_eq!(rx.recv_timeout(WATCHDOG), Ok(true));
    bench.ended(2);
    assert_eq!(bench.messages.dropped(), ["eos-timeout"]);
    bench.stop();
}

/// EOS to the pipeline waits for the source's streaming thread, which may wait for the worker,
/// which runs the handler. It takes the pipeline's state lock too.
#[test]
fn a_handler_may_end_the_pipeline_again_and_again() {
    for live in [false, true] {
        let line = format!(
            "videotestsrc is-live={live} ! video/x-raw,width=64,height=64,framerate=10/1 ! \
             qwenvl name=q window-duration=500000000 fps=4/1 eos-timeout={} ! fakesink",
            u64::MAX
        );
        let run = Run::new(&line, hooks(echo(Duration::ZERO)));
        let (pipeline, (tx, rx)) = (run.pipeline.downgrade(), mpsc::channel());
        run.element.connect("description", false, move |_| {
            let pipeline = pipeline.upgrade()?;
            // One that the state change has not waited for may return after the test.
            let _ = tx.send(pipeline.send_event(gst::event::Eos::new()));
            None
        });
        let _ = run.set_state(gst::State::Playing);
        let messages = Messages::until_end(&run.pipeline.bus().unwrap(), &run.element);
        assert!(messages.eos && messages.errors.is_empty(), "{messages:?}");
        run.set_state(gst::State::Null).unwrap();
        let sent: Vec<bool> = rx.try_iter().collect();
        assert!(!sent.is_empty());
        // None has ended twice.
        messages.ids();
    }
}

/// The worker is about to post an answer when the flush comes.
#[test]
fn what_is_being_said_at_a_flush_is_said_before_its_end() {
    let (mut bench, backend) = bench(&[]);
    let (call, called) = mpsc::channel();
    bench.bus.set_sync_handler(move |_, message| {
        let name = message.structure().map(|s| s.name().as_str());
        if name == Some("qwenvl/description") {
            call.send(()).unwrap();
            // Time for a fault to show.
            thread::sleep(Duration::from_millis(100));
        }
        gst::BusSyncReply::Pass
    });
    bench.frames(0..2_000);
    backend.take().answer();
    called.recv_timeout(WATCHDOG).unwrap();
    bench.event(gst::event::FlushStart::new());
    bench.event(gst::event::FlushStop::new(true));
    bench.collect();
    assert_eq!(bench.messages.descriptions().len(), 1);
    assert_eq!(bench.messages.dropped(), ["flush"]);
    bench.bus.unset_sync_handler();
    bench.stop();
}

/// It would wait for itself. What a handler cannot do, another thread can.
#[test]
fn a_handler_that_stops_the_element_is_told_that_it_cannot() {
    let (mut bench, backend) = bench(&[]);
    let (tx, rx) = mpsc::channel();
    connect(&bench, move |element, _| {
        tx.send(element.set_state(gst::State::Null)).unwrap();
    });
    bench.frames(0..2_000);
    backend.take().answer();
    assert_eq!(rx.recv_timeout(WATCHDOG), Ok(Err(gst::StateChangeError)));
    bench.stop();
    let told = |w: &&gst::glib::Error| w.message().contains("another thread");
    let warnings = &bench.messages.warnings;
    assert_eq!(warnings.iter().filter(told).count(), 1, "{warnings:?}");
    assert!(bench.messages.errors.is_empty());
    assert_eq!(bench.messages.ids(), [0, 1]);
}
