//! EOS, flushes, segments, caps and gaps in the middle of windows and of answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gst::prelude::*;
use gstqwenvl::meta;
use gstqwenvl::testing::Stage;
use qwen3_vl_core::backend::manual::ManualBackend;
use qwen3_vl_core::frames::VisionInput;

use crate::common::bench::Bench;
use crate::common::{self, hooks, in_time, wait_until};

fn bench(properties: &[(&str, &str)]) -> (Bench, ManualBackend) {
    let backend = ManualBackend::default();
    let bench = Bench::new(hooks(Arc::new(backend.clone())), true, properties).ready();
    (bench, backend)
}

fn segment() -> gst::Event {
    gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new())
}

fn caps(caps: &str) -> gst::Event {
    gst::event::Caps::new(&caps.parse().unwrap())
}

#[test]
fn eos_waits_for_the_partial_window() {
    let (mut bench, backend) = bench(&[]);
    bench.frames(0..1_500);
    let eos = bench.eos_in_thread();
    let asked = backend.take();
    // Three frames: the odd last one counts twice.
    assert_eq!(asked.inputs.len(), 2);
    let VisionInput::Pair([a, b]) = &asked.inputs[1] else {
        panic!("no pair");
    };
    assert_eq!((a.seconds, b.seconds), (1.0, 1.0));
    asked.answer();
    assert!(eos());
    bench.ended(1);
    let s = bench.messages.descriptions()[0];
    assert_eq!(s.get::<bool>("partial"), Ok(true));
    // The last frame ends there.
    assert_eq!(s.get::<u64>("end-pts"), Ok(1_100_000_000));
    bench.stop();
}

#[test]
fn eos_waits_no_longer_than_eos_timeout() {
    let (mut bench, backend) = bench(&[("eos-timeout", "50000000")]);
    bench.frames(0..1_500);
    assert!(bench.eos_in_thread()());
    bench.collect();
    assert_eq!(bench.messages.dropped(), ["eos-timeout"]);
    assert!(backend.take().is_cancelled());
    bench.stop();
}

#[test]
fn eos_gives_way_to_a_flush() {
    let (mut bench, backend) = bench(&[]);
    bench.frames(0..1_500);
    let eos = bench.eos_in_thread();
    wait_until("the request", || backend.waiting() == 1);
    bench.event(gst::event::FlushStart::new());
    assert!(!eos());
    bench.event(gst::event::FlushStop::new(true));
    bench.ended(1);
    assert_eq!(bench.messages.dropped(), ["flush"]);
    // The stream goes on.
    bench.event(segment());
    bench.frames(0..4_000);
    let late = backend.take();
    assert!(late.is_cancelled());
    late.answer();
    backend.take().answer();
    bench.ended(2);
    assert_eq!(bench.messages.ids(), [0, 1]);
    assert_eq!(bench.messages.descriptions().len(), 1);
    assert_eq!(bench.stat("late"), 1);
    bench.stop();
}

#[test]
fn eos_gives_way_to_a_state_change() {
    let (mut bench, backend) = bench(&[]);
    bench.frames(0..1_500);
    let eos = bench.eos_in_thread();
    wait_until("the request", || backend.waiting() == 1);
    bench.stop();
    assert!(!eos());
    assert_eq!(bench.messages.dropped(), ["cancelled"]);
}

#[test]
fn a_flush_drops_what_is_open_and_what_waits() {
    let (mut bench, backend) = bench(&[]);
    // One closed window, one open.
    bench.frames(0..5_000);
    wait_until("the request", || backend.waiting() == 1);
    bench.event(gst::event::FlushStart::new());
    assert_eq!(bench.push(5_000), Err(gst::FlowError::Flushing));
    bench.event(gst::event::FlushStop::new(true));
    bench.ended(2);
    assert_eq!(bench.messages.dropped(), ["flush", "flush"]);
    // An answer after the flush is ignored.
    backend.take().answer();
    wait_until("the late answer", || bench.stat("late") >= 1);
    bench.event(segment());
    while bench.harness.try_pull().is_some() {}
    bench.frames(0..500);
    let buffer = bench.harness.pull().unwrap();
    assert!(meta::descriptions(&buffer).is_empty());
    bench.collect();
    assert_eq!(bench.messages.descriptions().len(), 0);
    bench.stop();
}

/// The worker is busy meanwhile, and gets both flushes at once.
#[test]
fn two_flushes_in_a_row() {
    let open = Arc::new(AtomicBool::new(true));
    let gate = open.clone();
    let backend = ManualBackend::default();
    let mut hooks = hooks(Arc::new(backend.clone()));
    hooks.at = Arc::new(move |stage| {
        if stage == Stage::Worker {
            wait_until("permission", || gate.load(Ordering::SeqCst));
        }
    });
    let mut bench = Bench::new(hooks, true, &[]).ready();
    bench.frames(0..500);
    open.store(false, Ordering::SeqCst);
    bench.frames(500..1_000);
    for _ in 0..2 {
        bench.event(gst::event::FlushStart::new());
        bench.event(gst::event::FlushStop::new(true));
    }
    open.store(true, Ordering::SeqCst);
    bench.event(segment());
    bench.frames(0..4_000);
    backend.take().answer();
    bench.ended(2);
    assert_eq!(bench.messages.dropped(), ["flush"]);
    assert_eq!(bench.messages.descriptions().len(), 1);
    bench.stop();
}

#[test]
fn an_answer_for_the_next_buffer_does_not_outlive_a_flush() {
    let (mut bench, backend) = bench(&[]);
    bench.frames(0..4_000);
    backend.take().answer();
    bench.ended(1);
    bench.event(gst::event::FlushStart::new());
    bench.event(gst::event::FlushStop::new(true));
    bench.event(segment());
    while bench.harness.try_pull().is_some() {}
    bench.frames(0..500);
    assert!(meta::descriptions(&bench.harness.pull().unwrap()).is_empty());
    bench.stop();
}

#[test]
fn new_caps_close_the_window() {
    let (mut bench, backend) = bench(&[]);
    bench.frames(0..1_000);
    // The same caps again do not.
    bench.event(caps(common::bench::CAPS));
    bench.frames(1_000..2_000);
    bench.event(caps(
        "video/x-raw,format=GRAY8,width=192,height=96,framerate=10/1",
    ));
    let first = backend.take();
    assert_eq!(first.inputs.len(), 2);
    assert_eq!(
        (first.inputs[0].size().width, first.inputs[0].size().height),
        (96, 64)
    );
    for ms in [2_000, 2_500, 3_000, 3_500, 4_000, 4_500, 5_000, 5_500] {
        let mut buffer = gst::Buffer::with_size(192 * 96).unwrap();
        buffer
            .get_mut()
            .unwrap()
            .set_pts(gst::ClockTime::from_mseconds(ms));
        bench.harness.push(buffer).unwrap();
    }
    let second = backend.take();
    assert_eq!(
        (
            second.inputs[0].size().width,
            second.inputs[0].size().height
        ),
        (192, 96)
    );
    first.answer();
    second.answer();
    bench.ended(2);
    let partial: Vec<bool> = bench
        .messages
        .descriptions()
        .iter()
        .map(|s| s.get("partial").unwrap())
        .collect();
    assert_eq!(partial, [true, false]);
    bench.stop();
}

#[test]
fn a_new_segment_closes_the_window_and_a_gap_does_not() {
    let (mut bench, backend) = bench(&[]);
    bench.frames(0..1_000);
    let gap = gst::event::Gap::builder(gst::ClockTime::SECOND)
        .duration(gst::ClockTime::from_mseconds(500))
        .build();
    bench.event(gap);
    bench.frames(1_500..2_000);
    assert_eq!(backend.waiting(), 0);
    bench.event(segment());
    assert_eq!(backend.take().inputs.len(), 2);
    bench.stop();
}

#[test]
fn a_single_frame_is_too_short() {
    let (mut bench, _backend) = bench(&[]);
    bench.frames(0..500);
    assert!(bench.eos_in_thread()());
    bench.collect();
    assert_eq!(bench.messages.dropped(), ["too-short"]);
    bench.stop();
}

#[test]
fn frames_without_or_outside_of_time_pass_unseen() {
    let (mut bench, _backend) = bench(&[]);
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(gst::ClockTime::from_seconds(100));
    bench.event(gst::event::Segment::new(&segment));
    bench.push(1_000).unwrap();
    let mut timeless = Bench::buffer(0);
    timeless.get_mut().unwrap().set_pts(gst::ClockTime::NONE);
    bench.harness.push(timeless).unwrap();
    bench.harness.pull().unwrap();
    bench.harness.pull().unwrap();
    assert_eq!((bench.stat("frames"), bench.stat("sampled")), (2, 0));
    assert!(bench.eos_in_thread()());
    bench.stop();
}

#[test]
fn events_and_queries_of_others_go_through() {
    let (mut bench, _backend) = bench(&[]);
    let custom = gst::Structure::builder("other").field("n", 1).build();
    assert!(bench.event(gst::event::CustomDownstream::new(custom.clone())));
    let got = wait_for_event(&mut bench, gst::EventType::CustomDownstream);
    assert!(got.structure().unwrap().has_name("other"));
    let upstream = gst::event::CustomUpstream::new(custom);
    assert!(bench.harness.push_upstream_event(upstream));
    // No latency of its own.
    assert_eq!(bench.harness.query_latency(), Some(gst::ClockTime::ZERO));
    bench.stop();
}

fn wait_for_event(bench: &mut Bench, kind: gst::EventType) -> gst::Event {
    loop {
        let event = bench.harness.try_pull_event().unwrap();
        if event.type_() == kind {
            return event;
        }
    }
}

#[test]
fn up_and_down_again_and_again() {
    let (mut bench, _backend) = bench(&[]);
    let element = bench.element.clone();
    bench.frames(0..1_000);
    in_time("state changes", move || {
        for _ in 0..20 {
            element.set_state(gst::State::Null).unwrap();
            element.set_state(gst::State::Playing).unwrap();
            element.set_state(gst::State::Ready).unwrap();
            element.set_state(gst::State::Paused).unwrap();
        }
    });
    bench.stop();
    assert_eq!(bench.messages.dropped(), ["cancelled"]);
    assert!(bench.messages.errors.is_empty());
}
