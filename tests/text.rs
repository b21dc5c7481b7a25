//! The text pad: what it says, when, and that it never holds the video.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::manual::Manual;
use common::{Run, echo, hooks, wait_until};
use gst::ClockTime;
use gst::prelude::*;
use gstqwenvl::testing::Stage;

const FILE: &str = "videotestsrc num-buffers=100 ! video/x-raw,width=64,height=64,framerate=10/1";
const LIVE: &str =
    "videotestsrc is-live=true ! video/x-raw,format=RGB,width=320,height=64,framerate=10/1";

/// What came out of the text pad.
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

/// Notes what enters the sink pad of the element `t`.
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

/// Where the texts begin that came since the flush.
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
fn subtitles_hold_every_description() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.vtt");
    let line = format!(
        "{FILE} ! qwenvl name=q ! fakesink async=false \
         q.text ! webvttenc ! filesink async=false location={}",
        path.display()
    );
    let messages = Run::new(&line, hooks(echo(Duration::ZERO))).finish();
    let text: Vec<String> = messages
        .descriptions()
        .into_iter()
        .map(|d| d.get("text").unwrap())
        .collect();
    let vtt = std::fs::read_to_string(path).unwrap();
    assert!(vtt.starts_with("WEBVTT"), "{vtt}");
    let cues = [
        "00:00:00.000 --> 00:00:04.000",
        "00:00:04.000 --> 00:00:08.000",
    ];
    for word in cues.into_iter().chain(text.iter().map(String::as_str)) {
        assert!(vtt.contains(word), "{vtt} lacks {word}");
    }
}

/// What qtdemux finds in a file: the running time of each text, and the text.
fn texts_of(file: &std::path::Path) -> Vec<(ClockTime, String)> {
    let line = format!(
        "filesrc location=\"{}\" ! qtdemux name=d d.subtitle_0 ! queue ! \
         appsink name=s caps=text/x-raw sync=false d.video_0 ! queue ! fakesink async=false",
        file.display()
    );
    let pipeline = gst::parse::launch(&line).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("s").unwrap();
    let sink = sink.downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let text = |sample: gst::Sample| {
        let buffer = sample.buffer().unwrap();
        let text = buffer.map_readable().unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let segment = sample.segment().unwrap();
        let segment = segment.downcast_ref::<ClockTime>().unwrap();
        (segment.to_running_time(buffer.pts()).unwrap(), text)
    };
    let texts = std::iter::from_fn(|| sink.pull_sample().ok()).map(text);
    let texts = texts.filter(|(_, text)| !text.trim().is_empty()).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    texts
}

/// matroskamux knows sparse streams. qtmux stays at a text until it has the next one. Both with
/// queues of the default length, which hold less than a window.
#[test]
fn muxers_do_not_deadlock() {
    let folder = tempfile::tempdir().unwrap();
    for (source, timing, mux, format) in [
        (
            "videotestsrc num-buffers=100",
            "span",
            "matroskamux",
            "I420",
        ),
        ("videotestsrc num-buffers=100", "span", "qtmux", "UYVY"),
        ("videotestsrc num-buffers=100", "answer", "qtmux", "UYVY"),
        (
            "videotestsrc is-live=true num-buffers=100",
            "answer",
            "qtmux",
            "UYVY",
        ),
        (
            "videotestsrc is-live=true num-buffers=100",
            "answer",
            "matroskamux",
            "I420",
        ),
    ] {
        let file = folder.path().join(mux);
        let line = format!(
            "{source} ! video/x-raw,format={format},width=64,height=64,framerate=10/1 ! \
             qwenvl name=q text-timing={timing} ! queue ! {mux} name=m ! \
             filesink name=v location=\"{}\" q.text ! queue name=t ! m.",
            file.display()
        );
        let run = Run::new(&line, hooks(echo(Duration::ZERO)));
        let seen = watch(&run);
        let messages = run.finish();
        assert!(
            messages.eos && messages.errors.is_empty(),
            "{line}: {messages:?}"
        );
        // A live window that opens before the model is there is dropped.
        let early = messages.dropped();
        let loading = early
            .iter()
            .all(|why| source.contains("live") && why == "loading");
        assert!(loading, "{line}: {messages:?}");
        assert_eq!(messages.descriptions().len(), 3, "{line}");
        let all = texts(&seen);
        if mux == "matroskamux" {
            // It is content with GAPs.
            assert!(all.iter().all(|(.., text)| !text.is_empty()), "{all:?}");
        }
        let said: Vec<_> = all
            .into_iter()
            .filter(|(.., text)| !text.is_empty())
            .map(|(start, _, text)| (start, text))
            .collect();
        // A live text is said again and again.
        if timing == "span" {
            assert_eq!(said.len(), 3, "{line}: {said:?}");
        }
        if mux == "qtmux" {
            let stored = texts_of(&file);
            // The file begins with its first frame, which is not at 0 in a live stream.
            let near = ClockTime::from_mseconds(100);
            let same = said.len() == stored.len()
                && std::iter::zip(&said, &stored)
                    .all(|((a, said), (b, stored))| said == stored && a.absdiff(*b) < near);
            assert!(same, "{line}: {said:?} {stored:?}");
        }
    }
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
    // Before it, the stream says that there is nothing, ahead of the video.
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
    // What the same overlay shows for the text that the fake model gives.
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

/// The overlay waits until it has heard of every time that the video comes to.
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
        let run = Run::new(&line, hooks(Arc::new(Manual::new())));
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

#[test]
fn the_pad_comes_and_goes_while_the_video_plays() {
    let line = format!("{LIVE} ! qwenvl name=q window-duration=1000000000 ! fakesink name=v");
    let run = Run::new(&line, hooks(echo(Duration::ZERO)));
    let frames = video(&run);
    run.set_state(gst::State::Playing).unwrap();
    wait_until("video", || frames.load(Ordering::SeqCst) > 3);
    for _ in 0..2 {
        let pad = run.element.request_pad_simple("text").unwrap();
        assert!(
            run.element.request_pad_simple("text").is_none(),
            "one is enough"
        );
        let sink = gst::ElementFactory::make("fakesink")
            .name("t")
            .property("async", false)
            .build()
            .unwrap();
        run.pipeline.add(&sink).unwrap();
        let seen = watch(&run);
        sink.sync_state_with_parent().unwrap();
        pad.link(&sink.static_pad("sink").unwrap()).unwrap();
        wait_until("a text", || !texts(&seen).is_empty());
        assert!(matches!(seen.lock().unwrap()[0], Out::Start(_)));
        pad.unlink(&sink.static_pad("sink").unwrap()).unwrap();
        run.element.release_request_pad(&pad);
        sink.set_state(gst::State::Null).unwrap();
        run.pipeline.remove(&sink).unwrap();
    }
    let before = frames.load(Ordering::SeqCst);
    wait_until("more video", || frames.load(Ordering::SeqCst) > before + 3);
}

/// A sink that waits for its time, here for half a minute, keeps neither the pad nor the video.
#[test]
fn the_pad_goes_while_its_peer_waits() {
    let line = "videotestsrc num-buffers=400 ! video/x-raw,width=64,height=64,framerate=10/1 ! \
                qwenvl name=q window-duration=30000000000 fps=1/5 text-timing=span ! \
                fakesink name=v sync=false async=false q.text ! fakesink name=t sync=true async=false";
    let run = Run::new(line, hooks(echo(Duration::ZERO)));
    let seen = watch(&run);
    let frames = video(&run);
    run.set_state(gst::State::Playing).unwrap();
    wait_until("the second text", || texts(&seen).len() == 2);
    let pad = run.element.static_pad("text").unwrap();
    let begin = std::time::Instant::now();
    run.element.release_request_pad(&pad);
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    assert!(run.element.static_pad("text").is_none());
    assert!(pad.peer().is_none());
    // Another one takes its place at once.
    let pad = run.element.request_pad_simple("text").unwrap();
    run.element.release_request_pad(&pad);
    wait_until("the video", || frames.load(Ordering::SeqCst) == 400);
    run.set_state(gst::State::Null).unwrap();
}

/// The usual recorder looks at no GAP: it lets no video go past the last text.
#[test]
fn a_recorder_in_parts_gets_all_video_and_texts() {
    let folder = tempfile::tempdir().unwrap();
    let file = "videotestsrc num-buffers=120";
    let live = "videotestsrc is-live=true num-buffers=120";
    let mkv = "vp8enc deadline=1 keyframe-max-dist=10 ! splitmuxsink name=s muxer=matroskamux";
    let mp4 = "openh264enc gop-size=10 ! h264parse ! splitmuxsink name=s muxer=mp4mux";
    for (source, encode, seconds, part) in [
        (file, mkv, 2, 4),
        // Where files end with windows.
        (file, mkv, 2, 2),
        (file, mkv, 3, 2),
        (live, mkv, 2, 4),
        (file, mp4, 4, 4),
        (live, mp4, 2, 4),
    ] {
        let name = format!("{}-{seconds}-{part}-%d", source.len() + encode.len());
        let line = format!(
            "{source} ! video/x-raw,format=I420,width=64,height=64,framerate=10/1 ! \
             qwenvl name=q window-duration={seconds}000000000 ! identity name=v ! {encode} \
             max-size-time={part}000000000 location=\"{}\" q.text ! queue name=t ! s.subtitle_0",
            folder.path().join(&name).display()
        );
        let line = line.replace(
            "identity name=v ! vp8enc",
            "identity name=v ! queue ! vp8enc",
        );
        let run = Run::new(&line, hooks(echo(Duration::ZERO)));
        let seen = watch(&run);
        let frames = video(&run);
        let messages = run.finish();
        assert!(
            messages.eos && messages.errors.is_empty(),
            "{line}: {messages:?}"
        );
        assert_eq!(frames.load(Ordering::SeqCst), 120, "{line}");
        let said = texts(&seen);
        let told: Vec<_> = said.iter().filter(|(.., text)| !text.is_empty()).collect();
        let described = messages.descriptions().len();
        assert!(described >= 12 / seconds - 1, "{line}: {messages:?}");
        assert!(told.len() >= described, "{line}: {said:?}");
    }
}

/// While the pipeline prerolls, and while it is paused, the video stands still for another reason.
#[test]
fn a_paused_video_is_not_stuck() {
    let folder = tempfile::tempdir().unwrap();
    for queue in ["", "queue !"] {
        let path = folder.path().join("film.vtt");
        let line = format!(
            "{FILE} ! qwenvl name=q ! fakesink q.text ! {queue} webvttenc ! filesink location=\"{}\"",
            path.display()
        );
        let run = Run::new(&line, hooks(echo(Duration::ZERO)));
        run.set_state(gst::State::Paused).unwrap();
        let (changed, ..) = run.pipeline.state(ClockTime::from_seconds(20));
        changed.unwrap();
        // Longer than what counts as stuck while it plays.
        thread::sleep(Duration::from_millis(2_500));
        let messages = run.finish();
        assert_eq!(messages.descriptions().len(), 3);
        let vtt = std::fs::read_to_string(&path).unwrap();
        let cues: Vec<&str> = vtt.lines().filter(|line| line.contains("-->")).collect();
        let wanted = [
            "00:00:00.000 --> 00:00:04.000",
            "00:00:04.000 --> 00:00:08.000",
            "00:00:08.000 --> 00:00:10.000",
        ];
        assert_eq!(cues, wanted, "{queue}");
    }
}

/// A peer that never comes back, one that was never linked, one that fails.
#[test]
fn the_peer_of_the_text_never_holds_the_video() {
    for peer in [
        "queue name=t max-size-buffers=1 ! fakesink name=b",
        "none",
        "error",
    ] {
        let text = match peer {
            "none" => String::new(),
            "error" => "q.text ! identity name=t error-after=1 ! fakesink name=b".into(),
            other => format!("q.text ! {other}"),
        };
        let line = format!(
            "{LIVE} ! qwenvl name=q window-duration=500000000 text-timing=answer ! \
             fakesink name=v async=false {text}"
        );
        let run = Run::new(&line, hooks(echo(Duration::ZERO)));
        if peer == "none" {
            run.element.request_pad_simple("text").unwrap();
        } else if let Some(sink) = run.pipeline.by_name("b") {
            sink.set_property("async", false);
            let pad = sink.static_pad("sink").unwrap();
            if peer != "error" {
                let block = gst::PadProbeType::BLOCK_DOWNSTREAM;
                pad.add_probe(block, |_, _| gst::PadProbeReturn::Ok);
            }
        }
        let frames = video(&run);
        run.set_state(gst::State::Playing).unwrap();
        wait_until(peer, || frames.load(Ordering::SeqCst) > 30);
        run.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn a_flush_forgets_the_texts_of_before() {
    let line =
        format!("{FILE} ! qwenvl name=q ! fakesink name=v sync=true q.text ! fakesink name=t");
    let run = Run::new(&line, hooks(echo(Duration::from_secs(1))));
    let seen = watch(&run);
    let frames = video(&run);
    run.set_state(gst::State::Playing).unwrap();
    wait_until("video", || frames.load(Ordering::SeqCst) > 45);
    let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT;
    run.pipeline
        .seek_simple(flags, 5 * ClockTime::SECOND)
        .unwrap();
    wait_until("the end", || seen.lock().unwrap().last() == Some(&Out::Eos));
    let starts = starts_since_flush(&seen);
    assert!(!starts.is_empty());
    assert!(
        starts.iter().all(|pts| *pts >= 5 * ClockTime::SECOND),
        "{starts:?}"
    );
}

/// The worker has a frame in its hands, of a later time than all that follows.
#[test]
fn a_flush_forgets_what_the_worker_is_at() {
    let line = format!(
        "{FILE} ! qwenvl name=q ! fakesink name=v sync=true q.text ! fakesink name=t async=false"
    );
    let mut hooks = hooks(echo(Duration::from_millis(10)));
    let (hold, held) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (stop, stopped) = (hold.clone(), held.clone());
    hooks.at = Arc::new(move |stage| {
        if stage == Stage::Worker && stop.load(Ordering::SeqCst) {
            stopped.store(true, Ordering::SeqCst);
            wait_until("permission", || !stop.load(Ordering::SeqCst));
        }
    });
    let run = Run::new(&line, hooks);
    let seen = watch(&run);
    let frames = video(&run);
    run.set_state(gst::State::Playing).unwrap();
    wait_until("video", || frames.load(Ordering::SeqCst) > 45);
    hold.store(true, Ordering::SeqCst);
    wait_until("the worker", || held.load(Ordering::SeqCst));
    let pipeline = run.pipeline.clone();
    let seek = thread::spawn(move || {
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT;
        pipeline.seek_simple(flags, ClockTime::ZERO)
    });
    // Time for a mistake to show.
    thread::sleep(Duration::from_millis(100));
    hold.store(false, Ordering::SeqCst);
    seek.join().unwrap().unwrap();
    wait_until("the end", || seen.lock().unwrap().last() == Some(&Out::Eos));
    // The source ends after 100 frames, wherever they were.
    let starts = starts_since_flush(&seen);
    assert_eq!(starts, [ClockTime::ZERO, 4 * ClockTime::SECOND]);
}
