//! `QwenVLDescriptionMeta` in pipelines: several descriptions on one buffer, and the elements that
//! keep them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gst::prelude::*;
use gst_app::{AppSink, AppSrc};
use gstqwenvl::{meta, testing};
use qwen3_vl_core::backend::manual::ManualBackend;

use crate::common::{Messages, Run, echo, hooks, wait_until};

const SINK: &str = "appsink name=out sync=false";
/// Frames half a second apart; the second window, which begins after two seconds, ends with the
/// frame of this number.
const ANSWERED: usize = 12;
const FRAMES: usize = 15;

/// The descriptions on each frame.
type Descriptions = Vec<Vec<gst::Structure>>;

fn frame(i: usize) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_slice([128_u8; 96 * 64 * 3 / 2]);
    let header = buffer.get_mut().unwrap();
    header.set_pts(gst::ClockTime::from_mseconds(i as u64 * 500));
    header.set_duration(gst::ClockTime::from_mseconds(500));
    buffer
}

fn all(sink: &AppSink) -> Descriptions {
    let timeout = gst::ClockTime::from_seconds(20);
    let samples = std::iter::from_fn(|| sink.try_pull_sample(timeout));
    samples
        .map(|sample| meta::descriptions(sample.buffer().unwrap()))
        .collect()
}

/// Sends frames through `qwenvl name=q ! tail`, where the answers to two windows come between two
/// of them. Returns the descriptions at each sink, and the messages of each `qwenvl` in the order
/// of `names`.
fn through<const N: usize>(tail: &str, names: [&str; N]) -> (Vec<Descriptions>, [Messages; N]) {
    let run = Run::new(
        &format!(
            "appsrc name=in format=time caps=\"video/x-raw,format=I420,width=96,height=64,\
             framerate=2/1\" ! qwenvl name=q window-stride=2000000000 ! {tail}"
        ),
        hooks(Arc::new(ManualBackend::default())),
    );
    let by_name = |name| run.pipeline.by_name(name);
    let source = by_name("in").unwrap().downcast::<AppSrc>().unwrap();
    let sinks = ["out", "out2"].into_iter().filter_map(by_name);
    let sinks: Vec<AppSink> = sinks.map(|sink| sink.downcast().unwrap()).collect();
    let elements = names.map(|name| by_name(name).unwrap());
    let backends = elements.each_ref().map(|element| {
        let backend = ManualBackend::default();
        testing::set_hooks(element, hooks(Arc::new(backend.clone())));
        backend
    });
    let passed = Arc::new(AtomicUsize::new(0));
    let count = passed.clone();
    let pad = elements[N - 1].static_pad("src").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        gst::PadProbeReturn::Ok
    });
    run.set_state(gst::State::Playing).unwrap();
    for i in 0..=ANSWERED {
        source.push_buffer(frame(i)).unwrap();
    }
    wait_until("the frames", || passed.load(Ordering::SeqCst) > ANSWERED);
    for backend in &backends {
        for text in ["one", "two"] {
            backend.take().answer_with(text.into());
        }
    }
    let bus = run.pipeline.bus().unwrap();
    let mut messages = elements.each_ref().map(|_| Messages::default());
    wait_until("the descriptions", || {
        for message in bus.iter() {
            for (messages, element) in messages.iter_mut().zip(&elements) {
                messages.add(&message, element);
            }
        }
        messages.iter().all(|m| m.descriptions().len() == 2)
    });
    for i in ANSWERED + 1..FRAMES {
        source.push_buffer(frame(i)).unwrap();
    }
    source.end_of_stream().unwrap();
    let rest = std::thread::spawn(move || {
        for backend in &backends {
            for _ in 0..2 {
                backend.take().answer();
            }
        }
    });
    let got = sinks.iter().map(all).collect();
    rest.join().unwrap();
    (got, messages)
}

/// Whether, behind `tail`, the first frame after the answers has both descriptions and no other
/// any.
fn kept(tail: &str) -> bool {
    let (got, [messages]) = through(tail, ["q"]);
    let answers: Vec<_> = messages.descriptions().into_iter().cloned().collect();
    let texts: Vec<String> = answers.iter().map(|s| s.get("text").unwrap()).collect();
    assert_eq!(texts, ["one", "two"]);
    assert!(!got.is_empty());
    got.iter().all(|got| {
        assert_eq!(got.len(), FRAMES, "{tail}");
        let described = (0..FRAMES).filter(|i| !got[*i].is_empty());
        match described.collect::<Vec<_>>()[..] {
            [] => false,
            [i] if i == ANSWERED + 1 => {
                assert_eq!(got[i], answers, "{tail}");
                true
            }
            ref others => panic!("{tail}: on {others:?}"),
        }
    })
}

#[test]
fn two_answers_between_two_frames_go_on_one() {
    assert!(kept(SINK));
}

#[test]
fn two_elements_in_a_row_describe_one_frame() {
    let tail = format!("qwenvl name=second window-stride=2000000000 prompt=Why? ! {SINK}");
    let (got, messages) = through(&tail, ["q", "second"]);
    let all: Vec<_> = messages.iter().flat_map(Messages::descriptions).collect();
    assert_eq!(got[0][ANSWERED + 1].iter().collect::<Vec<_>>(), all);
    let of = |field: &str| {
        all.iter()
            .map(|s| s.get(field).unwrap())
            .collect::<Vec<String>>()
    };
    assert_eq!(of("stream-id"), ["q", "q", "second", "second"]);
    assert_eq!(of("text"), ["one", "two", "one", "two"]);
}

#[test]
fn what_keeps_descriptions() {
    let rgb = "video/x-raw,format=RGB";
    let both = format!("tee name=t ! queue ! {SINK} t. ! queue ! appsink name=out2 sync=false");
    assert!(kept(&both));
    for tail in [
        "queue",
        // New buffers.
        &format!("videoconvert ! {rgb}"),
        "videoscale ! video/x-raw,width=48,height=32",
        &format!("videoconvertscale ! {rgb},width=48,height=32"),
        "videorate ! video/x-raw,framerate=2/1",
        "videoflip method=clockwise",
        "videocrop left=8",
        // Drawn upon.
        "videobalance saturation=0.5",
        "textoverlay text=x",
        // Encoders, and decoders behind them.
        "jpegenc",
        "jpegenc ! jpegdec",
        "vp8enc deadline=1",
        "vp8enc deadline=1 ! vp8dec",
        "vp9enc deadline=1 lag-in-frames=0 ! vp9dec",
        "openh264enc ! h264parse",
        "openh264enc ! h264parse ! openh264dec",
        "openh264enc ! h264parse ! avdec_h264",
        "avenc_mpeg4",
        "avenc_mpeg4 ! mpeg4videoparse ! avdec_mpeg4",
        &format!("videoconvert ! {rgb} ! pngenc ! pngdec"),
        // Within one process also payloaders and muxers.
        "vp8enc deadline=1 ! rtpvp8pay ! rtpvp8depay ! vp8dec",
        "jpegenc ! matroskamux ! matroskademux ! jpegdec",
    ] {
        assert!(kept(&format!("{tail} ! {SINK}")), "{tail}");
    }
}

/// The reason why a description is also a message, a signal and a text.
#[test]
fn what_loses_descriptions() {
    for tail in [
        "compositor",
        "gdppay ! gdpdepay",
        "openh264enc ! h264parse ! mpegtsmux ! tsdemux ! h264parse ! openh264dec",
        "theoraenc ! oggmux ! oggdemux ! theoradec",
    ] {
        assert!(!kept(&format!("{tail} ! {SINK}")), "{tail}");
    }
}

/// theoraenc sends nothing for a frame that repeats the one before, and theoradec copies that one:
/// 926 of the film's 1000 frames kept their descriptions (1.22).
#[test]
fn theoradec_loses_the_descriptions_of_frames_that_repeat() {
    let described = |pattern: &str| {
        let line = format!(
            "videotestsrc pattern={pattern} num-buffers=100 ! \
             video/x-raw,width=64,height=64,framerate=25/1 ! \
             qwenvl name=q attach=window window-duration=1000000000 ! theoraenc ! theoradec ! \
             appsink name=out sync=false"
        );
        let run = Run::new(&line, hooks(echo(Duration::ZERO)));
        let sink = run.pipeline.by_name("out").unwrap();
        let sink = sink.downcast::<AppSink>().unwrap();
        run.set_state(gst::State::Playing).unwrap();
        let got = all(&sink);
        assert_eq!(got.len(), 100);
        got.iter().filter(|got| !got.is_empty()).count()
    };
    assert_eq!(described("snow"), 100);
    let still = described("black");
    assert!(still < 50, "{still}");
}
