//! The text pad on a bench: its events, and the returns of its peer.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::ClockTime;
use gst::prelude::*;
use gstqwenvl::testing::Stage;

use crate::common::bench::{Bench, CAPS};
use crate::common::{echo, hooks, wait_until};

/// An input of the text pad's peer.
#[derive(Clone, Debug)]
enum Got {
    Event(gst::Event),
    Text,
}

/// Requests the text pad and links it to a peer that accepts everything. Sticky events from before
/// the link come with the next output.
fn read(bench: &Bench) -> (gst::Pad, Arc<Mutex<Vec<Got>>>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let (events, texts) = (got.clone(), got.clone());
    let reader = gst::Pad::builder(gst::PadDirection::Sink)
        .event_function(move |pad, parent, event| {
            events.lock().unwrap().push(Got::Event(event.clone()));
            gst::Pad::event_default(pad, parent, event)
        })
        .chain_function(move |_, _, _| {
            texts.lock().unwrap().push(Got::Text);
            Ok(gst::FlowSuccess::Ok)
        })
        .build();
    reader.set_active(true).unwrap();
    let text = bench.element.request_pad_simple("text").unwrap();
    text.link(&reader).unwrap();
    (reader, got)
}

/// After the flush upstream sends a SEGMENT, but no STREAM_START.
#[test]
fn a_pad_that_comes_during_a_flush_says_that_its_stream_begins() {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &[]);
    bench.event(gst::event::FlushStart::new());
    bench.event(gst::event::FlushStop::new(true));
    let (_reader, got) = read(&bench);
    let segment = gst::FormattedSegment::<ClockTime>::new();
    bench.event(gst::event::Segment::new(&segment));
    wait_until("the segment", || got.lock().unwrap().len() >= 3);
    let kinds: Vec<_> = got.lock().unwrap()[..3]
        .iter()
        .map(|got| match got {
            Got::Event(event) => Some(event.type_()),
            Got::Text => None,
        })
        .collect();
    let first = [
        gst::EventType::StreamStart,
        gst::EventType::Caps,
        gst::EventType::Segment,
    ];
    assert_eq!(kinds, first.map(Some));
    bench.stop();
}

/// A segment with a stop and, to know it by, this base.
fn segment(base: ClockTime, rate: f64) -> gst::FormattedSegment<ClockTime> {
    let mut segment = gst::FormattedSegment::<ClockTime>::new();
    segment.set_rate(rate);
    segment.set_stop(10 * ClockTime::SECOND);
    segment.set_base(base);
    segment
}

/// Waits for the segment with this base. Returns its index in `got`, and the segment.
fn wait_segment(
    got: &Mutex<Vec<Got>>,
    base: ClockTime,
) -> (usize, gst::FormattedSegment<ClockTime>) {
    let find = || {
        let got = got.lock().unwrap();
        got.iter().enumerate().find_map(|(place, got)| {
            let Got::Event(event) = got else { return None };
            let gst::EventView::Segment(event) = event.view() else {
                return None;
            };
            let segment = event.segment().downcast_ref::<ClockTime>()?;
            (segment.base() == Some(base)).then(|| (place, segment.clone()))
        })
    };
    wait_until("a segment", || find().is_some());
    find().unwrap()
}

#[test]
fn a_flush_goes_on_to_the_peer_of_the_text() {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &[]);
    let (_reader, got) = read(&bench);
    bench.event(gst::event::FlushStart::new());
    bench.event(gst::event::FlushStop::new(true));
    let base = ClockTime::SECOND;
    bench.event(gst::event::Segment::new(&segment(base, 1.0)));
    let (place, _) = wait_segment(&got, base);
    let flushes = [gst::EventType::FlushStart, gst::EventType::FlushStop];
    let kinds: Vec<_> = got.lock().unwrap()[..place]
        .iter()
        .filter_map(|got| match got {
            Got::Event(event) => Some(event.type_()),
            Got::Text => None,
        })
        .filter(|kind| flushes.contains(kind))
        .collect();
    assert_eq!(kinds, flushes);
    bench.stop();
}

/// Answers and GAPs may come after the video's end, so only a backwards segment has a stop.
#[test]
fn the_text_stream_is_of_the_videos_group_and_ends_later() {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &[]);
    let group = gst::GroupId::next();
    let start = gst::event::StreamStart::builder("camera").group_id(group);
    bench.event(start.build());
    bench.event(gst::event::Caps::new(&CAPS.parse().unwrap()));
    bench.event(gst::event::Segment::new(&segment(ClockTime::ZERO, 1.0)));
    let (_reader, got) = read(&bench);
    let (forward, backward) = (ClockTime::SECOND, 2 * ClockTime::SECOND);
    bench.event(gst::event::Segment::new(&segment(forward, 1.0)));
    assert_eq!(wait_segment(&got, forward).1.stop(), None);
    bench.event(gst::event::Segment::new(&segment(backward, -1.0)));
    let stop = wait_segment(&got, backward).1.stop();
    assert_eq!(stop, Some(10 * ClockTime::SECOND));
    let got = got.lock().unwrap();
    let groups = got.iter().filter_map(|got| match got {
        Got::Event(event) => match event.view() {
            gst::EventView::StreamStart(start) => Some(start.group_id()),
            _ => None,
        },
        Got::Text => None,
    });
    assert_eq!(groups.collect::<Vec<_>>(), [Some(group)]);
    drop(got);
    bench.stop();
}

/// Also if the worker has not handled the earlier frames.
#[test]
fn a_segment_comes_behind_the_texts_of_the_one_before() {
    let mut hooks = hooks(echo(Duration::ZERO));
    let goes_on = Arc::new(AtomicBool::new(false));
    let worker = goes_on.clone();
    hooks.at = Arc::new(move |stage| {
        if stage == Stage::Worker {
            wait_until("permission", || worker.load(Ordering::SeqCst));
        }
    });
    let properties = [("min-frames", "2"), ("text-timing", "span")];
    let mut bench = Bench::new(hooks, false, &properties).ready();
    let (_reader, got) = read(&bench);
    for ms in [0, 500] {
        bench.push(ms).unwrap();
    }
    let base = ClockTime::SECOND;
    bench.event(gst::event::Segment::new(&segment(base, 1.0)));
    goes_on.store(true, Ordering::SeqCst);
    let (place, _) = wait_segment(&got, base);
    let before = got.lock().unwrap()[..place].to_vec();
    let text = before.iter().any(|got| matches!(got, Got::Text));
    assert!(text, "{before:?}");
    bench.stop();
}

#[test]
fn a_peer_that_takes_no_more_gets_no_more_until_a_flush() {
    let properties = [("window-duration", "1000000000"), ("min-frames", "2")];
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), false, &properties).ready();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let reader = gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(move |_, _, _| {
            count.fetch_add(1, Ordering::SeqCst);
            Err(gst::FlowError::Error)
        })
        .build();
    reader.set_active(true).unwrap();
    let text = bench.element.request_pad_simple("text").unwrap();
    text.link(&reader).unwrap();
    bench.frames(0..3500);
    bench.ended(3);
    wait_until("a text", || asked.load(Ordering::SeqCst) > 0);
    bench.event(gst::event::FlushStart::new());
    bench.event(gst::event::FlushStop::new(true));
    let before = asked.swap(0, Ordering::SeqCst);
    let segment = gst::FormattedSegment::<ClockTime>::new();
    bench.event(gst::event::Segment::new(&segment));
    bench.frames(0..1500);
    wait_until("another text", || asked.load(Ordering::SeqCst) > 0);
    assert_eq!(before, 1);
    bench.stop();
}

/// The peer need not wait for the next window to know that there is no text before it.
#[test]
fn between_windows_there_are_gaps() {
    let properties = [
        ("window-duration", "1000000000"),
        ("window-stride", "3000000000"),
        ("min-frames", "2"),
        ("text-timing", "span"),
    ];
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), false, &properties).ready();
    let (_reader, got) = read(&bench);
    bench.frames(0..2500);
    wait_until("a gap", || {
        got.lock().unwrap().iter().any(|got| match got {
            Got::Event(event) => match event.view() {
                gst::EventView::Gap(gap) => gap.get().0 >= ClockTime::SECOND,
                _ => false,
            },
            Got::Text => false,
        })
    });
    bench.stop();
}

/// QoS and RECONFIGURE of the text must not reach the video.
#[test]
fn what_the_peer_of_the_text_says_reaches_upstream_if_it_is_for_all() {
    let mut bench = Bench::new(hooks(echo(Duration::ZERO)), true, &[]);
    let (reader, _got) = read(&bench);
    while bench.harness.try_pull_upstream_event().is_some() {}
    let late = gst::event::Qos::new(gst::QOSType::Underflow, 1.0, 0, ClockTime::ZERO);
    assert!(reader.push_event(late));
    assert!(reader.push_event(gst::event::Reconfigure::new()));
    let structure = gst::Structure::new_empty("any");
    assert!(reader.push_event(gst::event::CustomUpstream::new(structure)));
    let event = bench.harness.try_pull_upstream_event().unwrap();
    assert_eq!(event.type_(), gst::EventType::CustomUpstream);
    assert!(bench.harness.try_pull_upstream_event().is_none());
    bench.stop();
}
