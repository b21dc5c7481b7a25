//! The text pad: its output and the times of it, and that it never holds the video.

mod muxers;
mod pads;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use gst::ClockTime;
use gst::prelude::*;
use gstqwenvl::testing::Stage;
use qwen3_vl_core::backend::manual::ManualBackend;

use crate::common::{Run, echo, hooks, wait_until};

const FILE: &str = "videotestsrc num-buffers=100 ! video/x-raw,width=64,height=64,framerate=10/1";
const LIVE: &str =
    "videotestsrc is-live=true ! video/x-raw,format=RGB,width=320,height=64,framerate=10/1";

/// An output of the text pad.
#[derive(Clone, Debug, PartialEq)]
enum Out {
    Start(gst::StreamFlags),
    Caps(String),
    Segment,
    FlushStop,
    Text(ClockTime, Option<ClockTime>, String),
    Gap(ClockTime, Option<ClockTime>),
    Eos,
}

type Seen = Arc<Mutex<Vec<Out>>>;

/// Records the input of the sink pad of the element `t`.
fn watch(run: &Run) -> Seen {
    let seen = Seen::default();
    let note = seen.clone();
    let pad = run
        .pipeline
        .by_name("t")
        .unwrap()
        .static_pad("sink")
        .unwrap();
    let kinds = gst::PadProbeType::BUFFER
        | gst::PadProbeType::EVENT_DOWNSTREAM
        | gst::PadProbeType::EVENT_FLUSH;
    pad.add_probe(kinds, move |_, info| {
        let out = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                let text = buffer.map_readable().unwrap();
                let text = String::from_utf8(text.to_vec()).unwrap();
                Some(Out::Text(buffer.pts().unwrap(), buffer.duration(), text))
            }
            Some(gst::PadProbeData::Event(event)) => match event.view() {
                gst::EventView::StreamStart(start) => Some(Out::Start(start.stream_flags())),
                gst::EventView::Caps(caps) => Some(Out::Caps(caps.caps().to_string())),
                gst::EventView::Segment(_) => Some(Out::Segment),
                gst::EventView::FlushStop(_) => Some(Out::FlushStop),
                gst::EventView::Gap(gap) => {
                    let (start, duration) = gap.get();
                    Some(Out::Gap(start, duration))
                }
                gst::EventView::Eos(_) => Some(Out::Eos),
                _ => None,
            },
            _ => None,
        };
        note.lock().unwrap().extend(out);
        gst::PadProbeReturn::Ok
    });
    seen
}

fn texts(seen: &Seen) -> Vec<(ClockTime, Option<ClockTime>, String)> {
    let seen = seen.lock().unwrap();
    let texts = seen.iter().filter_map(|out| match out {
        Out::Text(pts, duration, text) => Some((*pts, *duration, text.clone())),
        _ => None,
    });
    texts.collect()
}

/// Starts of the texts since the flush.
fn starts_since_flush(seen: &Seen) -> Vec<ClockTime> {
    let seen = seen.lock().unwrap();
    let flush = seen.iter().position(|out| *out == Out::FlushStop).unwrap();
    let starts = seen[flush..].iter().filter_map(|out| match out {
        Out::Text(pts, ..) => Some(*pts),
        _ => None,
    });
    starts.collect()
}

/// Counts the buffers that reach the element `v`.
fn video(run: &Run) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let pad = run
        .pipeline
        .by_name("v")
        .unwrap()
        .static_pad("sink")
        .unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        seen.fetch_add(1, Ordering::SeqCst);
        gst::PadProbeReturn::Ok
    });
    count
}

#[test]
fn a_file_has_its_texts_where_the_windows_are() {
    let line = format!(
        "{FILE} ! qwenvl name=q ! fakesink name=v async=false q.text ! fakesink name=t async=false"
    );
    let run = Run::new(&line, hooks(echo(Duration::ZERO)));
    let seen = watch(&run);
    let messages = run.finish();
    let spans: Vec<_> = messages
        .descriptions()
        .into_iter()
        .map(|d| {
            let (start, end): (u64, u64) = (d.get("start-pts").unwrap(), d.get("end-pts").unwrap());
            let duration = ClockTime::from_nseconds(end - start);
            (
                ClockTime::from_nseconds(start),
                Some(duration),
                d.get("text").unwrap(),
            )
        })
        .collect();
    assert_eq!(spans.len(), 3);
    assert_eq!(texts(&seen), spans);
    let seen = seen.lock().unwrap();
    let Out::Start(flags) = seen[0] else {
        panic!("{seen:?}")
    };
    assert!(flags.contains(gst::StreamFlags::SPARSE));
    assert_eq!(seen[1], Out::Caps("text/x-raw, format=(string)utf8".into()));
    assert_eq!(seen[2], Out::Segment);
    assert_eq!(seen.iter().filter(|out| **out == Out::Eos).count(), 1);
    assert_eq!(seen.last(), Some(&Out::Eos));
}

#[test]
fn a_live_text_begins_when_it_is_there() {
    let line = format!(
        "{LIVE} ! qwenvl name=q window-duration=1000000000 ! fakesink name=v \
         q.text ! fakesink name=t"
    );
    let run = Run::new(&line, hooks(echo(Duration::from_millis(300))));
    let seen = watch(&run);
    run.set_state(gst::State::Playing).unwrap();
    wait_until("two texts", || texts(&seen).len() >= 2);
    let texts = texts(&seen);
    // The first window ends after a second; its text cannot stand before its answer.
    assert!(texts[0].0 >= ClockTime::from_mseconds(1300), "{texts:?}");
    assert!(texts[1].0 >= texts[0].0 + texts[0].1.unwrap(), "{texts:?}");
    // Before it there are GAPs, ahead of the video.
    let gaps = seen.lock().unwrap();
    assert!(matches!(gaps[3], Out::Gap(ClockTime::ZERO, _)), "{gaps:?}");
}

#[test]
fn an_overlay_shows_the_answer_on_live_video() {
    let caps = "video/x-raw,format=RGB,width=320,height=64,framerate=10/1";
    let overlay = "textoverlay name=o font-desc=\"Sans 12\"";
    let last = |line: &str, hooks| {
        let run = Run::new(line, hooks);
        let sink = run.pipeline.by_name("s").unwrap();
        let sink = sink.downcast::<gst_app::AppSink>().unwrap();
        run.set_state(gst::State::Playing).unwrap();
        let frame = |sample: gst::Sample| sample.buffer().unwrap().map_readable().unwrap().to_vec();
        (0..25)
            .map(|_| frame(sink.pull_sample().unwrap()))
            .collect::<Vec<_>>()
    };
    let source = format!("videotestsrc is-live=true pattern=black ! {caps}");
    let described = last(
        &format!(
            "{source} ! qwenvl name=q window-duration=1000000000 prompt=Yes ! {overlay} ! \
             appsink name=s sync=false q.text ! o.text_sink"
        ),
        hooks(echo(Duration::ZERO)),
    );
    // The same overlay's picture of the fake model's text.
    let reference = last(
        &format!(
            "{source} ! qwenvl name=q window-duration=60000000000 ! \
             {overlay} text=\"2 inputs of 320x64: Yes\" ! appsink name=s sync=false"
        ),
        hooks(echo(Duration::ZERO)),
    );
    let black = vec![0; described[0].len()];
    assert_eq!(described[0], black, "nothing is known yet");
    assert_ne!(reference[24], black);
    assert!(described[24] == reference[24], "the text is on the picture");
}

/// The overlay holds the video until the text stream has reached its time.
#[test]
fn an_overlay_never_waits_whatever_the_segment() {
    const FRAMES: usize = 50;
    const STOP: ClockTime = ClockTime::SECOND;
    for what in ["begins late", "ends soon", "comes again"] {
        let line = format!(
            "videotestsrc is-live=true num-buffers={FRAMES} name=c ! \
             video/x-raw,format=RGB,width=320,height=64,framerate=50/1 ! \
             qwenvl name=q eos-timeout=1 ! textoverlay name=o ! \
             fakesink name=v q.text ! o.text_sink"
        );
        // Without answers there are GAPs alone.
        let run = Run::new(&line, hooks(Arc::new(ManualBackend::default())));
        let frames = video(&run);
        let outside = Arc::new(AtomicUsize::new(0));
        let pad = run
            .pipeline
            .by_name("c")
            .unwrap()
            .static_pad("src")
            .unwrap();
        match what {
            "begins late" => pad.set_offset(3_000_000_000),
            // The last frames, or so: a live source's first frame is at any time after 0.
            "ends soon" => {
                let outside = outside.clone();
                pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                    let pts = info.buffer().unwrap().pts().unwrap();
                    if pts >= STOP {
                        outside.fetch_add(1, Ordering::SeqCst);
                    }
                    gst::PadProbeReturn::Ok
                });
                let kind = gst::PadProbeType::EVENT_DOWNSTREAM;
                pad.add_probe(kind, |_, info| {
                    let Some(gst::PadProbeData::Event(event)) = &mut info.data else {
                        return gst::PadProbeReturn::Ok;
                    };
                    if let gst::EventView::Segment(segment) = event.view() {
                        let mut segment = segment.segment().clone();
                        let segment = segment.downcast_mut::<ClockTime>().unwrap();
                        segment.set_stop(STOP);
                        *event = gst::event::Segment::new(segment);
                    }
                    gst::PadProbeReturn::Ok
                });
            }
            _ => {
                let frame = AtomicUsize::new(0);
                pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
                    // Between two GAPs.
                    if frame.fetch_add(1, Ordering::SeqCst) == 7 {
                        let segment = pad.sticky_event::<gst::event::Segment>(0).unwrap();
                        let segment = gst::event::Segment::new(segment.segment());
                        pad.push_event(segment);
                    }
                    gst::PadProbeReturn::Ok
                });
            }
        }
        let messages = run.finish();
        assert!(messages.eos, "{what}: {messages:?}");
        let inside = FRAMES - outside.load(Ordering::SeqCst);
        assert!(inside > 0, "{what}");
        assert_eq!(frames.load(Ordering::SeqCst), inside, "{what}");
    }
}
