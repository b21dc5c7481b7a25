//! `attach=window`: the video waits for its descriptions and carries them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gst::ClockTime;
use gst::prelude::*;
use gstqwenvl::testing::Stage;
use qwen3_vl_core::backend::manual::{Call, ManualBackend};

use crate::common::bench::Bench;
use crate::common::camera::{BUFFERS, Camera};
use crate::common::{self, Messages, Run, echo, hooks, in_time, wait_until};

/// Window ids of the descriptions that a buffer carries, after its PTS in milliseconds.
type Carried = (u64, Vec<u64>);

fn carried(buffer: &gst::BufferRef) -> Carried {
    let descriptions = gstqwenvl::meta::descriptions(buffer);
    let ids = descriptions.iter().map(|d| d.get("window-id").unwrap());
    (buffer.pts().unwrap().mseconds(), ids.collect())
}

fn bench(backend: &ManualBackend, live: bool, properties: &[(&str, &str)]) -> Bench {
    let properties = [&[("attach", "window")], properties].concat();
    let bench = Bench::new(hooks(Arc::new(backend.clone())), live, &properties);
    bench.ready()
}

/// The buffers that have left so far.
fn out(bench: &mut Bench) -> Vec<Carried> {
    std::iter::from_fn(|| bench.harness.try_pull())
        .map(|buffer| carried(&buffer))
        .collect()
}

/// Waits until `count` buffers have left.
fn wait_out(bench: &mut Bench, count: usize) -> Vec<Carried> {
    wait_until("buffers", || {
        bench.harness.buffers_in_queue() as usize >= count
    });
    out(bench)
}

/// A window of four frames from `start` on, in milliseconds.
fn window(start: u64, ids: &[u64]) -> Vec<Carried> {
    let frames = (0..4).map(|i| start + i * 500);
    frames.map(|ms| (ms, ids.to_vec())).collect()
}

const TWO_SECONDS: (&str, &str) = ("window-duration", "2000000000");

/// Plays a file. Returns the buffers at the last element.
fn file(properties: &str) -> (Vec<Carried>, Messages) {
    let line = format!(
        "videotestsrc num-buffers=100 ! video/x-raw,width=64,height=64,framerate=10/1 ! \
         qwenvl name=q attach=window {properties} ! fakesink name=v sync=false"
    );
    let run = Run::new(&line, hooks(echo(Duration::from_millis(20))));
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let pad = run.pipeline.by_name("v").unwrap();
    let note = seen.clone();
    pad.static_pad("sink")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            note.lock().unwrap().push(carried(info.buffer().unwrap()));
            gst::PadProbeReturn::Ok
        });
    let messages = run.finish();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (seen, messages)
}

/// The descriptions that every buffer must carry, by the messages.
fn by_messages(messages: &Messages) -> Vec<Carried> {
    let span = |d: &&gst::Structure| -> (u64, u64, u64) {
        let get = |name| d.get::<u64>(name).unwrap();
        (
            get("window-id"),
            get("start-pts") / 1_000_000,
            get("end-pts") / 1_000_000,
        )
    };
    let mut spans: Vec<_> = messages.descriptions().iter().map(span).collect();
    spans.sort_unstable();
    (0..100)
        .map(|i| i * 100)
        .map(|ms| {
            let covers = spans
                .iter()
                .filter(|(_, from, to)| (*from..*to).contains(&ms));
            (ms, covers.map(|(id, ..)| *id).collect())
        })
        .collect()
}

#[test]
fn every_buffer_of_a_file_has_the_descriptions_of_its_windows() {
    let (seen, messages) = file("");
    assert_eq!(seen, by_messages(&messages));
    assert!(seen.iter().all(|(_, ids)| ids.len() == 1));

    let (seen, messages) = file("window-stride=1000000000");
    assert_eq!(seen, by_messages(&messages));
    assert_eq!(seen[50], (5000, vec![2, 3, 4, 5]));
}

#[test]
fn buffers_wait_for_the_answer_and_go_untouched() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, false, &[TWO_SECONDS]);
    let first = Bench::buffer(0);
    let memory = first.peek_memory(0).as_ptr();
    bench.harness.push(first).unwrap();
    bench.frames(500..2000);
    let asked = backend.take();
    assert_eq!((bench.stat("held"), out(&mut bench)), (4, vec![]));
    asked.answer();
    wait_until("a buffer", || bench.harness.buffers_in_queue() == 4);
    let first = bench.harness.pull().unwrap();
    assert_eq!(carried(&first), (0, vec![0]));
    assert_eq!(first.peek_memory(0).as_ptr(), memory);
    assert_eq!(out(&mut bench), window(0, &[0])[1..]);
    assert_eq!((bench.stat("held"), bench.stat("copied")), (0, 0));
}

#[test]
fn no_longer_than_the_timeout() {
    for live in [false, true] {
        let backend = ManualBackend::default();
        let timeout = ("attach-timeout", "100000000");
        let mut bench = bench(&backend, live, &[TWO_SECONDS, timeout]);
        bench.frames(0..2000);
        assert_eq!(wait_out(&mut bench, 4), window(0, &[]));
        // The message still comes, and no other buffer carries the description.
        backend.take().answer();
        bench.ended(1);
        assert_eq!(bench.messages.descriptions().len(), 1);
        bench.frames(2000..4000);
        backend.take().answer();
        assert_eq!(wait_out(&mut bench, 4), window(2000, &[1]));
    }
}

#[test]
fn a_live_frame_leaves_although_the_worker_stands_still() {
    let backend = ManualBackend::default();
    let still = Arc::new(AtomicBool::new(false));
    let mut hooks = hooks(Arc::new(backend.clone()));
    let stop = still.clone();
    hooks.at = Arc::new(move |stage| {
        if stage == Stage::Worker {
            wait_until("permission", || !stop.load(Ordering::SeqCst));
        }
    });
    let properties = [
        ("attach", "window"),
        ("attach-timeout", "1"),
        ("window-duration", "500000000"),
        ("fps", "4/1"),
        ("min-frames", "2"),
    ];
    let mut bench = Bench::new(hooks, true, &properties).ready();
    still.store(true, Ordering::SeqCst);
    for ms in [0, 100, 200] {
        bench.push(ms).unwrap();
    }
    let frames = [0, 100, 200].map(|ms| (ms, vec![])).to_vec();
    assert_eq!(wait_out(&mut bench, 3), frames);
    still.store(false, Ordering::SeqCst);
}

#[test]
fn a_window_without_an_answer_holds_nothing() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, false, &[TWO_SECONDS]);
    bench.frames(0..2000);
    backend.take().end(qwen3_vl_core::event::Event::Failed(
        qwen3_vl_core::failure::Failure::Invalid("no".into()),
    ));
    assert_eq!(wait_out(&mut bench, 4), window(0, &[]));
    bench.ended(1);
    assert_eq!(bench.messages.dropped(), ["error"]);
}

#[test]
fn events_keep_their_place_and_eos_is_last() {
    use gst::EventType::{Eos, Gap, Segment};
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, false, &[TWO_SECONDS]);
    while bench.harness.pull_event().unwrap().type_() != Segment {}
    bench.frames(0..1500);
    let gap = gst::event::Gap::builder(ClockTime::from_mseconds(1500)).build();
    assert!(bench.event(gap));
    let segment = gst::FormattedSegment::<ClockTime>::new();
    assert!(bench.event(gst::event::Segment::new(&segment)));
    bench.frames(0..500);
    assert_eq!(bench.harness.events_in_queue(), 0);
    let eos = bench.eos_in_thread();
    backend.take().answer();
    assert!(eos());
    wait_until("EOS", || bench.harness.events_in_queue() == 3);
    let first = window(0, &[0]).into_iter().take(3);
    // The second window is too short.
    let all: Vec<_> = first.chain([(0, vec![])]).collect();
    assert_eq!(out(&mut bench), all);
    let kind = |bench: &mut Bench| bench.harness.pull_event().unwrap().type_();
    let kinds: Vec<_> = (0..3).map(|_| kind(&mut bench)).collect();
    assert_eq!(kinds, [Gap, Segment, Eos]);
}

#[test]
fn a_flush_forgets_what_is_held() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, false, &[TWO_SECONDS]);
    bench.frames(0..2000);
    let old = backend.take();
    assert!(bench.event(gst::event::FlushStart::new()));
    assert!(bench.event(gst::event::FlushStop::new(true)));
    old.answer();
    let segment = gst::FormattedSegment::<ClockTime>::new();
    assert!(bench.event(gst::event::Segment::new(&segment)));
    bench.frames(8000..10000);
    backend.take().answer();
    assert_eq!(wait_out(&mut bench, 4), window(8000, &[1]));
    bench.ended(2);
    assert_eq!(bench.messages.dropped(), ["flush"]);
    assert_eq!(bench.stat("held"), 0);
}

#[test]
fn it_stops_while_it_holds() {
    for end in [gst::State::Ready, gst::State::Null] {
        let backend = ManualBackend::default();
        let mut bench = bench(&backend, false, &[TWO_SECONDS]);
        bench.frames(0..2000);
        let element = bench.element.clone();
        in_time("stopping", move || element.set_state(end)).unwrap();
        assert_eq!(bench.stat("held"), 0);
        bench.collect();
        assert_eq!(bench.messages.dropped(), ["cancelled"]);
    }
}

#[test]
fn a_failure_of_the_engine_lets_everything_go() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, false, &[TWO_SECONDS]);
    bench.frames(0..2000);
    bench.frames(2000..3000);
    backend.take().end(qwen3_vl_core::event::Event::Failed(
        qwen3_vl_core::failure::Failure::Fatal("gone".into()),
    ));
    let all: Vec<_> = (0..6).map(|i| (i * 500, vec![])).collect();
    assert_eq!(wait_out(&mut bench, 6), all);
}

#[test]
fn what_downstream_says_reaches_upstream() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, false, &[TWO_SECONDS]);
    let pad = bench.element.static_pad("src").unwrap();
    let peer = pad.peer().unwrap();
    peer.set_active(false).unwrap();
    bench.frames(0..2000);
    backend.take().answer();
    wait_until("the answer of downstream", || {
        bench.push(2000) == Err(gst::FlowError::Flushing)
    });
    peer.set_active(true).unwrap();
}

/// Nothing follows EOS, so no later push would report the error.
#[test]
fn an_end_that_downstream_does_not_take_is_an_error() {
    for (flow, errors) in [
        (gst::FlowError::NotNegotiated, 1),
        (gst::FlowError::Flushing, 0),
        (gst::FlowError::Eos, 0),
    ] {
        let backend = ManualBackend::default();
        let mut bench = bench(&backend, false, &[TWO_SECONDS]);
        let peer = bench.element.static_pad("src").unwrap().peer().unwrap();
        peer.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            info.flow_res = Err(flow);
            gst::PadProbeReturn::Handled
        });
        bench.frames(0..2000);
        backend.take().answer();
        wait_until("the answer of downstream", || bench.push(2000) == Err(flow));
        // Any other event is refused without an ERROR.
        let event = gst::Structure::new_empty("any");
        assert!(!bench.event(gst::event::CustomDownstream::new(event)));
        bench.collect();
        assert_eq!(bench.messages.errors.len(), 0, "{flow:?}");
        assert!(!bench.eos_in_thread()());
        bench.collect();
        assert_eq!(bench.messages.errors.len(), errors, "{flow:?}");
        bench.stop();
    }
}

#[test]
fn a_pool_of_four_does_not_run_dry() {
    let backend = ManualBackend::default();
    let (element, bus, _) = Bench::idle(hooks(Arc::new(backend.clone())));
    element.set_property_from_str("attach", "window");
    element.set_state(gst::State::Playing).unwrap();
    // Frames before the model is loaded would be missing in the window.
    let mut messages = Messages::default();
    wait_until("loading", || {
        messages.take_from(&bus, &element);
        messages.is_loaded()
    });
    let mut camera = Camera::new(&element, true);
    camera.start(0);
    // The camera fails if there is no buffer when it takes a picture.
    for i in 0..39 {
        camera.frame(i * 100);
    }
    camera.wait_all();
    let asked = backend.take();
    wait_until("the buffers", || camera.in_pool() == BUFFERS as usize);
    assert_eq!(camera.shown.lock().unwrap().len(), 0);
    asked.answer();
    wait_until("the frames", || camera.shown.lock().unwrap().len() >= 36);
    let stats: gst::Structure = element.property("stats");
    assert_eq!(stats.get::<u64>("copied").unwrap(), 39);
    element.set_state(gst::State::Null).unwrap();
}

/// Minimum and maximum latency that a pad reports.
fn latency(pad: &gst::Pad) -> (ClockTime, Option<ClockTime>) {
    let mut query = gst::query::Latency::new();
    assert!(pad.query(&mut query));
    let (live, min, max) = query.result();
    assert!(live);
    (min, max)
}

#[test]
fn the_latency_of_both_pads() {
    let seconds = ClockTime::from_seconds;
    // (attach, text-timing) → video, text; the harness itself has none.
    let held = seconds(4 + 10) + ClockTime::from_mseconds(50);
    let span = seconds(4 + 10);
    let cases = [
        ("next", "answer", ClockTime::ZERO, ClockTime::ZERO),
        ("next", "auto", ClockTime::ZERO, ClockTime::ZERO),
        ("next", "span", ClockTime::ZERO, span),
        ("window", "answer", held, held),
        ("window", "span", held, held),
    ];
    for (attach, timing, video, text) in cases {
        let backend = Arc::new(ManualBackend::default());
        let properties = [("attach", attach), ("text-timing", timing)];
        let mut bench = Bench::new(hooks(backend), true, &properties);
        let pad = bench.element.request_pad_simple("text").unwrap();
        let src = bench.element.static_pad("src").unwrap();
        assert_eq!(latency(&src).0, video, "{attach} {timing}");
        assert_eq!(latency(&pad).0, text, "{attach} {timing}");
        bench.stop();
    }
}

/// The element adds its latency to the minimum and to the maximum, because held buffers are
/// buffering.
#[test]
fn what_is_held_adds_to_both_ends_of_upstreams_latency() {
    let (min, max) = (ClockTime::from_seconds(1), ClockTime::from_seconds(20));
    let mut bench = bench(&ManualBackend::default(), true, &[]);
    let camera = bench.element.static_pad("sink").unwrap().peer().unwrap();
    let kinds = gst::PadProbeType::QUERY_UPSTREAM | gst::PadProbeType::PUSH;
    camera.add_probe(kinds, move |_, info| {
        let query = info.query_mut().map(gst::QueryRef::view_mut);
        let Some(gst::QueryViewMut::Latency(query)) = query else {
            return gst::PadProbeReturn::Ok;
        };
        query.set(true, min, Some(max));
        gst::PadProbeReturn::Handled
    });
    let src = bench.element.static_pad("src").unwrap();
    let (all, most) = latency(&src);
    assert_eq!(most, Some(max + (all - min)));
    assert!(all > min + ClockTime::from_seconds(4));
    bench.stop();
}

#[test]
fn another_window_duration_is_another_latency() {
    let mut bench = bench(&ManualBackend::default(), true, &[]);
    while bench.bus.pop().is_some() {}
    let src = bench.element.static_pad("src").unwrap();
    let before = latency(&src).0;
    bench
        .element
        .set_property("window-duration", 6_000_000_000u64);
    assert_eq!(latency(&src).0, before + ClockTime::from_seconds(2));
    let told = bench.bus.pop_filtered(&[gst::MessageType::Latency]);
    assert!(told.is_some());
    bench.element.set_property("prompt", "Another one.");
    let told = bench.bus.pop_filtered(&[gst::MessageType::Latency]);
    assert!(told.is_none());
    bench.stop();
}

/// A sink that follows the clock shows every frame of a live stream in time.
#[test]
fn a_live_sink_drops_nothing() {
    let line = "videotestsrc is-live=true num-buffers=30 ! \
                video/x-raw,width=64,height=64,framerate=20/1 ! \
                qwenvl name=q attach=window window-duration=500000000 fps=4/1 min-frames=2 \
                attach-timeout=500000000 ! \
                fakevideosink name=v sync=true qos=true max-lateness=5000000";
    let run = Run::new(line, hooks(echo(Duration::from_millis(100))));
    let sink = run.pipeline.by_name("v").unwrap();
    let messages = run.finish();
    assert!(messages.eos);
    let sink = sink.downcast::<gst::Bin>().unwrap();
    let real = sink.children().into_iter().next().unwrap();
    let stats: gst::Structure = real.property("stats");
    assert_eq!(stats.get::<u64>("dropped").unwrap(), 0, "{stats}");
    assert!(messages.descriptions().len() >= 2);
}

/// A worker that the element could not wait for ends during the next run, whose video it must not
/// release.
#[test]
fn a_worker_of_the_run_before_lets_no_video_go() {
    let flag = || Arc::new(AtomicBool::new(false));
    let (called, go_on, slow) = (flag(), flag(), flag());
    let mut backend = ManualBackend::default();
    let (call, gate) = (called.clone(), go_on.clone());
    backend.at = Arc::new(move |at| {
        if at == Call::Ask && !gate.load(Ordering::SeqCst) {
            call.store(true, Ordering::SeqCst);
            wait_until("permission", || gate.load(Ordering::SeqCst));
        }
    });
    let mut hooks = hooks(Arc::new(backend.clone()));
    let waits = slow.clone();
    hooks.at = Arc::new(move |stage| {
        if stage == Stage::Worker {
            wait_until("permission", || !waits.load(Ordering::SeqCst));
        }
    });
    let properties = [("attach", "window"), TWO_SECONDS];
    let mut bench = Bench::new(hooks, true, &properties).ready();
    bench.frames(0..2000);
    wait_until("the call", || called.load(Ordering::SeqCst));
    bench.stop();
    out(&mut bench);
    bench.element.set_state(gst::State::Playing).unwrap();
    for event in [
        gst::event::StreamStart::new("again"),
        gst::event::Caps::new(&common::bench::CAPS.parse().unwrap()),
        gst::event::Segment::new(&gst::FormattedSegment::<ClockTime>::new()),
    ] {
        bench.event(event);
    }
    bench.messages.progress.clear();
    let mut bench = bench.ready();
    go_on.store(true, Ordering::SeqCst);
    bench.ended(1);
    assert!(backend.take().is_cancelled());
    // Time for a fault to show.
    std::thread::sleep(Duration::from_millis(100));
    // The current worker has not yet reported this frame's window.
    slow.store(true, Ordering::SeqCst);
    bench.push(0).unwrap();
    assert_eq!((bench.stat("held"), out(&mut bench)), (1, vec![]));
    slow.store(false, Ordering::SeqCst);
    bench.frames(500..2000);
    backend.take().answer();
    assert_eq!(wait_out(&mut bench, 4), window(0, &[1]));
    bench.stop();
}
