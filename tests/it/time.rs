//! Frame sampling, the windows of the frames and the times in messages, for all kinds of timestamps
//! and segments.

use std::sync::Arc;
use std::time::Duration;

use gst::prelude::*;
use qwen3_vl_core::backend::manual::ManualBackend;

use crate::common::bench::Bench;
use crate::common::{self, Messages, Run, echo, hooks, wait_until};

const MS: u64 = 1_000_000;
const NONE: Option<u64> = None;

type Segment = gst::FormattedSegment<gst::ClockTime>;

fn caps(framerate: &str) -> gst::Event {
    let caps = format!("video/x-raw,format=RGB,width=96,height=64{framerate}");
    gst::event::Caps::new(&caps.parse().unwrap())
}

fn frame(ns: u64, duration: Option<u64>) -> gst::Buffer {
    let mut buffer = Bench::buffer(0);
    let header = buffer.get_mut().unwrap();
    header.set_pts(gst::ClockTime::from_nseconds(ns));
    header.set_duration(duration.map(gst::ClockTime::from_nseconds));
    buffer
}

/// Frames at these milliseconds, each 100 long.
fn push(bench: &mut Bench, times: impl IntoIterator<Item = u64>) {
    for ms in times {
        bench.harness.push(frame(ms * MS, Some(100 * MS))).unwrap();
    }
}

/// The messages about a file that `feed` pushes, to its end.
fn told(properties: &[(&str, &str)], feed: impl FnOnce(&mut Bench)) -> Messages {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), false, properties).ready();
    feed(&mut bench);
    assert!(bench.eos_in_thread()());
    // Every frame has passed, sampled or not.
    let mut passed = 0;
    while bench.harness.try_pull().is_some() {
        passed += 1;
    }
    assert_eq!(passed, bench.stat("frames"));
    bench.stop();
    assert!(bench.messages.errors.is_empty(), "{:?}", bench.messages);
    bench.messages
}

/// The windows of a file in this segment.
fn told_in(
    segment: impl FnOnce(&mut Segment),
    times: impl IntoIterator<Item = u64>,
) -> Vec<Window> {
    let messages = told(&[], |bench| {
        bench.event(segment_event(segment));
        push(bench, times);
    });
    windows(&messages)
}

fn segment_event(change: impl FnOnce(&mut Segment)) -> gst::Event {
    let mut segment = Segment::new();
    change(&mut segment);
    gst::event::Segment::new(&segment)
}

fn seconds(seconds: u64) -> gst::ClockTime {
    gst::ClockTime::from_seconds(seconds)
}

/// The times in a terminal message, in milliseconds.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Window {
    id: u64,
    frames: Vec<u64>,
    running: [Option<u64>; 2],
    pts: [Option<u64>; 2],
    stream: [Option<u64>; 2],
    partial: bool,
}

impl Window {
    fn of(message: &gst::StructureRef) -> Self {
        let ends = |what: &str| {
            ["start", "end"].map(|end| {
                let time = message.get::<u64>(format!("{end}-{what}").as_str());
                time.ok().map(|ns| ns / MS)
            })
        };
        let frames: gst::Array = message.get("frame-pts").unwrap();
        Self {
            id: message.get("window-id").unwrap(),
            frames: frames
                .iter()
                .map(|pts| pts.get::<u64>().unwrap() / MS)
                .collect(),
            running: ends("running-time"),
            pts: ends("pts"),
            stream: ends("stream-time"),
            partial: message.get("partial").unwrap(),
        }
    }
}

/// The described windows in their order; none may have been dropped.
fn windows(messages: &Messages) -> Vec<Window> {
    assert_eq!(messages.dropped(), [""; 0], "{messages:?}");
    let mut all: Vec<Window> = messages
        .descriptions()
        .into_iter()
        .map(|s| Window::of(s))
        .collect();
    all.sort();
    all
}

fn frames(messages: &Messages) -> Vec<Vec<u64>> {
    windows(messages).into_iter().map(|w| w.frames).collect()
}

fn every(step: u64, range: std::ops::Range<u64>) -> Vec<u64> {
    range.step_by(usize::try_from(step).unwrap()).collect()
}

fn span(start: u64, end: u64) -> [Option<u64>; 2] {
    [Some(start), Some(end)]
}

#[test]
fn one_to_240_frames_a_second() {
    for (fps, interval) in [(1, 1_000), (2, 500), (30, 500), (240, 500)] {
        let messages = told(&[], |bench| {
            bench.event(caps(&format!(",framerate={fps}/1")));
            for i in 0..8 * fps {
                let [at, end] = [i, i + 1].map(|i| i * 1_000 * MS / fps);
                bench.harness.push(frame(at, Some(end - at))).unwrap();
            }
        });
        assert_eq!(
            frames(&messages),
            [every(interval, 0..4_000), every(interval, 4_000..8_000)],
            "{fps}"
        );
        assert_eq!(windows(&messages)[0].running, span(0, 4_000));
    }
}

#[test]
fn variable_and_missing_frame_rates() {
    for rate in [",framerate=0/1", ""] {
        let times = [
            0, 300, 700, 900, 1_600, 1_700, 2_400, 3_900, 4_100, 5_200, 5_300,
        ];
        let messages = told(&[], |bench| {
            bench.event(caps(rate));
            for ms in times {
                bench.harness.push(frame(ms * MS, NONE)).unwrap();
            }
        });
        let all = windows(&messages);
        assert_eq!(all[0].frames, [0, 700, 1_600, 2_400, 3_900]);
        assert_eq!((all[0].running, all[0].partial), (span(0, 4_000), false));
        // The last frame does not say how long it is.
        assert_eq!(all[1].frames, [4_100, 5_200]);
        assert_eq!((all[1].running, all[1].partial), (span(4_100, 5_300), true));
        assert_eq!(all.len(), 2);
    }
}

#[test]
fn a_jitter_loses_no_frames() {
    // As many frames as are sampled; the ninth belongs to the second window, in spite of its PTS.
    let times = [
        0, 512, 991, 1_520, 1_985, 2_503, 2_980, 3_508, 3_982, 4_500, 5_000,
    ];
    for rate in [",framerate=2/1", ",framerate=0/1"] {
        let messages = told(&[], |bench| {
            bench.event(caps(rate));
            push(bench, times);
        });
        let all = windows(&messages);
        assert_eq!(all[0].frames, times[..8]);
        assert_eq!(all[1].frames, times[8..]);
        assert_eq!(all[0].running, span(0, 4_000));
        assert_eq!(all[1].running, span(4_000, 5_100));
    }
}

#[test]
fn duplicated_and_slightly_backward_timestamps() {
    let times = [
        0, 0, 0, 500, 500, 400, 300, 600, 1_000, 1_000, 999, 1_500, 1_400,
    ];
    let messages = told(&[], |bench| push(bench, times));
    let all = windows(&messages);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].frames, [0, 500, 1_000, 1_500]);
}

#[test]
fn a_jump_back_ends_the_window() {
    let times = [10_000, 10_500, 11_000, 11_200, 2_000, 2_500, 2_600];
    let messages = told(&[], |bench| push(bench, times));
    let all = windows(&messages);
    assert_eq!(all[0].frames, [10_000, 10_500, 11_000]);
    assert_eq!(all[0].running, span(10_000, 11_000));
    assert_eq!(all[1].frames, [2_000, 2_500]);
    assert_eq!(all[1].running, span(2_000, 2_700));
    assert!(all.iter().all(|window| window.partial));
}

#[test]
fn a_jump_ahead_leaves_out_the_windows_between() {
    let times = [every(500, 0..2_000), every(500, 9_000..12_000)].concat();
    let messages = told(&[], |bench| push(bench, times));
    let all = windows(&messages);
    assert_eq!(
        frames(&messages),
        [every(500, 0..2_000), every(500, 9_000..12_000)]
    );
    // The grid goes on: 0, 4, 8.
    assert_eq!((all[0].running, all[0].partial), (span(0, 4_000), false));
    assert_eq!(
        (all[1].running, all[1].partial),
        (span(9_000, 12_000), false)
    );
    assert_eq!([all[0].id, all[1].id], [0, 1]);
}

#[test]
fn a_discontinuity_breaks_no_window() {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), false, &[]).ready();
    for ms in every(500, 0..4_000) {
        let mut buffer = frame(ms * MS, NONE);
        let flags = gst::BufferFlags::DISCONT | gst::BufferFlags::CORRUPTED;
        buffer.get_mut().unwrap().set_flags(flags);
        bench.harness.push(buffer).unwrap();
        assert!(bench.harness.pull().unwrap().flags().contains(flags));
    }
    bench.ended(1);
    assert_eq!(frames(&bench.messages), [every(500, 0..4_000)]);
    bench.stop();
}

#[test]
fn gap_events_pass_and_break_nothing() {
    let messages = told(&[], |bench| {
        push(bench, [0, 500]);
        let gap = gst::event::Gap::builder(seconds(1))
            .duration(seconds(2))
            .build();
        bench.event(gap);
        let passed = std::iter::from_fn(|| bench.harness.try_pull_event());
        assert_eq!(
            passed
                .filter(|event| event.type_() == gst::EventType::Gap)
                .count(),
            1
        );
        push(bench, [3_000, 3_500, 4_000, 4_500]);
    });
    assert_eq!(
        frames(&messages),
        [vec![0, 500, 3_000, 3_500], vec![4_000, 4_500]]
    );
}

/// A window that ends in a GAP is described at once, not with the next frame.
#[test]
fn windows_that_end_in_a_gap_are_told_at_once() {
    let backend = ManualBackend::default();
    let mut bench = Bench::new(hooks(Arc::new(backend.clone())), false, &[]).ready();
    bench.frames(0..3_000);
    for (start, duration) in [(3_000, 900), (3_900, 6_000)] {
        assert_eq!(backend.waiting(), 0);
        let start = gst::ClockTime::from_mseconds(start);
        let duration = gst::ClockTime::from_mseconds(duration);
        bench.event(gst::event::Gap::builder(start).duration(duration).build());
    }
    backend.take().answer();
    bench.ended(1);
    let description = bench.messages.descriptions()[0];
    assert!(!description.get::<bool>("partial").unwrap());
    assert_eq!(description.get::<u64>("end-pts").unwrap(), 4_000_000_000);
    // The windows go on where they were; what lies in the gap is none.
    bench.frames(10_000..12_500);
    backend.take().answer();
    bench.ended(2);
    assert_eq!(bench.messages.starts(), [0, 10_000_000_000]);
    bench.stop();
}

#[test]
fn min_frames_at_low_rates() {
    // One frame in ten seconds is too few for a window: it is raised to four in a window.
    let messages = told(&[("fps", "1/10")], |bench| {
        push(bench, every(100, 0..8_000))
    });
    assert_eq!(
        frames(&messages),
        [every(1_000, 0..4_000), every(1_000, 4_000..8_000)]
    );
    // What a stream does not have cannot be sampled, and is described all the same.
    let messages = told(&[], |bench| {
        bench.event(caps(",framerate=1/2"));
        push(bench, every(2_000, 0..8_000));
    });
    assert_eq!(frames(&messages), [[0, 2_000], [4_000, 6_000]]);
    // A single frame is no video.
    let messages = told(&[], |bench| {
        bench.event(caps(",framerate=0/1"));
        push(bench, every(4_000, 0..12_000));
    });
    assert_eq!(messages.dropped(), ["too-short"; 3]);
}

#[test]
fn twice_as_fast() {
    let all = told_in(|s| s.set_rate(2.0), every(100, 0..11_000));
    assert_eq!(all[0].frames, every(1_000, 0..8_000));
    assert_eq!(
        (all[0].running, all[0].pts),
        (span(0, 4_000), span(0, 8_000))
    );
    assert_eq!(all[0].stream, span(0, 8_000));
    // The last frame, too, is shown for half as long.
    assert_eq!(all[1].frames, [8_000, 9_000, 10_000]);
    assert_eq!(all[1].running, span(4_000, 5_500));
    assert_eq!(all[1].pts, span(8_000, 11_000));
}

#[test]
fn half_as_fast() {
    let all = told_in(|s| s.set_rate(0.5), every(50, 0..3_000));
    assert_eq!(all[0].frames, every(250, 0..2_000));
    assert_eq!(
        (all[0].running, all[0].pts),
        (span(0, 4_000), span(0, 2_000))
    );
    assert_eq!(all[1].frames, every(250, 2_000..3_000));
    // The last frame ends at 3050 ms.
    assert_eq!(all[1].running, span(4_000, 6_100));
    assert_eq!(all[1].pts, span(2_000, 3_050));
}

#[test]
fn backwards() {
    let reverse = |s: &mut Segment| {
        s.set_rate(-1.0);
        s.set_stop(seconds(8));
    };
    let all = told_in(reverse, every(100, 0..8_000).into_iter().rev());
    assert_eq!(
        all[0].frames,
        [7_900, 7_400, 6_900, 6_400, 5_900, 5_400, 4_900, 4_400]
    );
    assert_eq!(all[0].running, span(100, 4_100));
    assert_eq!(all[0].pts, span(7_900, 3_900));
    assert_eq!(all[1].frames[0], 3_900);
    // Nothing is left after the start of the segment.
    assert_eq!(all[1].pts, span(3_900, 0));
}

#[test]
fn start_offset_base_and_time() {
    let segment = |base: u64| {
        move |s: &mut Segment| {
            s.set_start(seconds(10));
            s.set_offset(seconds(1));
            s.set_base(seconds(base));
            s.set_time(seconds(5));
        }
    };
    // The first second is taken off the running time; there is none below zero.
    for (base, first) in [(0, 11_000), (100, 10_000)] {
        let all = told_in(segment(base), every(500, 9_500..16_000));
        let start = base * 1_000 + first - 11_000;
        assert_eq!(all[0].frames, every(500, first..first + 4_000));
        assert_eq!(all[0].running, span(start, start + 4_000));
        assert_eq!(all[0].pts, span(first, first + 4_000));
        assert_eq!(all[0].stream, span(first - 5_000, first - 1_000));
        assert_eq!(all[1].pts, span(first + 4_000, 15_600));
    }
}

#[test]
fn no_window_ends_after_its_segment() {
    // Between two frames, in the middle of the last frame, and where the next sample is far.
    for (stop, partial) in [(2_600, true), (2_550, true), (3_900, false)] {
        let segment = |s: &mut Segment| s.set_stop(gst::ClockTime::from_mseconds(stop));
        let all = told_in(segment, every(100, 0..stop));
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].running, all[0].pts), (span(0, stop), span(0, stop)));
        assert_eq!(all[0].stream, span(0, stop));
        assert_eq!(all[0].partial, partial, "{stop}");
    }
}

#[test]
fn windows_end_with_their_segment_and_running_time_goes_on() {
    let messages = told(&[], |bench| {
        for round in 0..3 {
            bench.event(segment_event(|s| {
                s.set_start(seconds(7));
                s.set_stop(seconds(9));
                s.set_time(seconds(7));
                s.set_base(seconds(2 * round));
            }));
            push(bench, every(100, 7_000..9_000));
        }
        // Another stream from the same pad.
        bench.event(gst::event::StreamStart::new("next"));
        bench.event(caps(",framerate=10/1"));
        bench.event(segment_event(|s| s.set_base(seconds(6))));
        push(bench, every(100, 0..1_000));
    });
    let all = windows(&messages);
    for (round, window) in all[..3].iter().enumerate() {
        assert_eq!(window.frames, every(500, 7_000..9_000));
        assert_eq!(
            (window.pts, window.stream),
            (span(7_000, 9_000), span(7_000, 9_000))
        );
        let start = 2_000 * round as u64;
        assert_eq!(window.running, span(start, start + 2_000));
    }
    assert_eq!(all[3].running, span(6_000, 7_000));
    assert_eq!(all[3].pts, span(0, 1_000));
    assert_eq!(all.len(), 4);
}

#[test]
fn a_looping_source() {
    let run = Run::new(
        "videotestsrc ! video/x-raw,width=64,height=64,framerate=10/1 ! qwenvl name=q ! fakesink",
        hooks(echo(Duration::ZERO)),
    );
    let seek = |flags| {
        let to = gst::SeekType::Set;
        let (from, until) = (gst::ClockTime::ZERO, seconds(2));
        run.pipeline.seek(1.0, flags, to, from, to, until).unwrap();
    };
    let bus = run.pipeline.bus().unwrap();
    let done = |rounds: u64| {
        let wait = gst::ClockTime::from_seconds(common::WATCHDOG.as_secs());
        let kinds = [gst::MessageType::SegmentDone, gst::MessageType::Eos];
        let message = bus.timed_pop_filtered(wait, &kinds);
        assert!(message.is_some(), "round {rounds} never ends");
        // Described although no new segment has come yet.
        wait_until("the description", || {
            let stats: gst::Structure = run.element.property("stats");
            stats.get::<u64>("described") == Ok(rounds)
        });
    };
    run.set_state(gst::State::Paused).unwrap();
    assert_eq!(
        run.pipeline.state(gst::ClockTime::from_seconds(60)).0,
        Ok(gst::StateChangeSuccess::Success)
    );
    seek(gst::SeekFlags::FLUSH | gst::SeekFlags::SEGMENT);
    run.set_state(gst::State::Playing).unwrap();
    done(1);
    seek(gst::SeekFlags::SEGMENT);
    done(2);
    seek(gst::SeekFlags::empty());
    done(3);
    run.set_state(gst::State::Null).unwrap();
}

/// A window closes when its end has passed on the clock while the camera is silent.
#[test]
fn a_silent_camera_closes_its_window() {
    for attach in ["next", "window"] {
        let properties = [("attach", attach)];
        let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &properties).ready();
        bench.frames(0..2_000);
        bench.harness.set_time(seconds(4)).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        bench.collect();
        assert!(
            bench.messages.ids().is_empty(),
            "frames may be a little late"
        );
        bench.harness.set_time(seconds(5)).unwrap();
        bench.ended(1);
        let (end, frames): (u64, u32) = {
            let described = bench.messages.descriptions()[0];
            (
                described.get("end-running-time").unwrap(),
                described.get("frames").unwrap(),
            )
        };
        assert_eq!((end, frames), (4_000 * MS, 4));
        for _ in 0..4 {
            bench.harness.pull().unwrap();
        }
        // It comes back.
        bench.frames(6_000..10_000);
        bench.ended(2);
        let described = bench.messages.descriptions();
        let start: u64 = described[1].get("start-running-time").unwrap();
        assert_eq!(start, 6_000 * MS);
        bench.stop();
    }
}

/// A paused stream does not count as silent.
#[test]
fn a_paused_camera_keeps_its_window_open() {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &[]).ready();
    bench.frames(0..2_000);
    bench.element.set_state(gst::State::Paused).unwrap();
    bench.harness.set_time(seconds(10)).unwrap();
    // The element checks the clock once a second.
    std::thread::sleep(Duration::from_millis(1_300));
    bench.collect();
    assert!(bench.messages.ids().is_empty());
    bench.element.set_state(gst::State::Playing).unwrap();
    bench.ended(1);
    bench.stop();
}

/// A window at twice the segment rate has frames of twice as much of the stream, and reserves
/// tokens for them.
#[test]
fn tokens_are_reserved_for_the_frames_that_come_at_this_rate() {
    let tokens = |rate: f64, fps: u64| {
        let backend = ManualBackend::default();
        let mut bench = Bench::new(hooks(Arc::new(backend.clone())), true, &[]).ready();
        bench.event(caps(&format!(",framerate={fps}/1")));
        bench.event(segment_event(|s| s.set_rate(rate)));
        push(&mut bench, (0..8).map(|i| i * 1_000 / fps));
        let asked = backend.take();
        assert_eq!(asked.inputs.len(), 4);
        bench.stop();
        asked.head.tokens
    };
    assert_eq!(tokens(2.0, 1), tokens(1.0, 2));
}
