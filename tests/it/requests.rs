//! Several requests of one window: the messages of each, their order, and that each ends once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::prelude::*;
use gstqwenvl::testing::Hooks;
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::backend::manual::{Call, ManualBackend};
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;

use crate::common::bench::Bench;
use crate::common::terminal::Terminal;
use crate::common::{Messages, Run, echo, hooks, wait_until};

/// Hooks with two requests a window.
fn two(backend: Arc<dyn Backend>) -> Hooks {
    let prompts = |prompt: &str| vec![format!("{prompt} first"), format!("{prompt} second")];
    Hooks {
        prompts: Arc::new(prompts),
        ..hooks(backend)
    }
}

/// A live stream with windows of a second, which are two frames.
fn bench(backend: &ManualBackend, properties: &[(&str, &str)]) -> Bench {
    let seconds = [
        ("window-duration", "1000000000"),
        ("min-frames", "2"),
        ("prompt", "what"),
    ];
    let properties = [&seconds, properties].concat();
    Bench::new(two(Arc::new(backend.clone())), true, &properties).ready()
}

/// Window, request and its text or reason, in the order of the messages. Fails if one ended twice.
fn ends(messages: &Messages) -> Vec<(u64, u64, String)> {
    let terminals = messages.structures.iter().filter_map(|structure| {
        let terminal = Terminal::read(structure).unwrap()?;
        let what = match &terminal {
            Terminal::Description(description) => description.text.clone(),
            Terminal::Dropped(dropped) => dropped.reason.as_str().to_owned(),
        };
        let window = terminal.window();
        Some((window.window_id, window.request_id, what))
    });
    let ends: Vec<_> = terminals.collect();
    let mut ids: Vec<_> = ends.iter().map(|(_, request, _)| request).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), ends.len(), "a request ended twice: {ends:?}");
    ends
}

/// Waits until `count` requests have ended. Returns how.
fn ended(bench: &mut Bench, count: usize) -> Vec<(u64, u64, String)> {
    wait_until("the end of a request", || {
        bench.collect();
        ends(&bench.messages).len() >= count
    });
    ends(&bench.messages)
}

fn end(window: u64, request: u64, what: &str) -> (u64, u64, String) {
    (window, request, what.to_owned())
}

#[test]
fn answers_are_told_in_the_order_of_the_requests() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, &[]);
    let signals = Arc::new(Mutex::new(Vec::new()));
    let note = signals.clone();
    bench.element.connect("description", false, move |values| {
        let structure: gst::Structure = values[1].get().unwrap();
        note.lock().unwrap().push(structure);
        None
    });
    bench.frames(0..1_000);
    let (first, mut second) = (backend.take(), backend.take());
    assert_eq!(first.request.prompt, "what first");
    assert_eq!((first.inputs.len(), second.inputs.len()), (1, 1));
    assert_eq!(bench.stat("outstanding"), 1, "it is one window");
    second.token(7, "piece");
    second.answer();
    wait_until("the token", || {
        bench.collect();
        !bench.messages.named("qwenvl/token").is_empty()
    });
    let token = bench.messages.named("qwenvl/token")[0];
    let ids = ["window-id", "request-id"].map(|name| token.get::<u64>(name).unwrap());
    assert_eq!(ids, [0, 1]);
    first.answer();
    let expected = [end(0, 0, "what first"), end(0, 1, "what second")];
    assert_eq!(ended(&mut bench, 2), expected);
    wait_until("rest", || bench.stat("outstanding") == 0);
    assert_eq!((bench.stat("described"), bench.stat("dropped")), (2, 0));
    let told: Vec<_> = bench.messages.descriptions().into_iter().cloned().collect();
    assert_eq!(*signals.lock().unwrap(), told);
    while bench.harness.try_pull().is_some() {}
    bench.push(1_000).unwrap();
    let buffer = bench.harness.pull().unwrap();
    assert_eq!(gstqwenvl::meta::descriptions(&buffer), told);
    bench.stop();
}

#[test]
fn one_request_fails_alone() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, &[]);
    bench.frames(0..1_000);
    let (first, second) = (backend.take(), backend.take());
    first.end(Event::Failed(Failure::Invalid("too long".into())));
    second.answer();
    let expected = [end(0, 0, "error"), end(0, 1, "what second")];
    assert_eq!(ended(&mut bench, 2), expected);
    assert_eq!((bench.stat("described"), bench.stat("dropped")), (1, 1));
    bench.stop();
}

#[test]
fn overload_drops_the_requests_of_a_window_that_have_no_answer() {
    let backend = ManualBackend::default();
    let properties = [("max-pending", "1"), ("overload", "drop-oldest")];
    let mut bench = bench(&backend, &properties);
    bench.frames(0..2_000);
    wait_until("two windows", || backend.waiting() == 4);
    let mut asked = backend.take_all().into_iter();
    let mut next = || asked.next().unwrap();
    let (first, second, third, fourth) = (next(), next(), next(), next());
    third.answer();
    // The third request has an answer, which waits for the first window's.
    bench.frames(2_000..3_000);
    assert_eq!(ended(&mut bench, 1), [end(1, 3, "overload")]);
    assert!(fourth.is_cancelled());
    fourth.answer();
    first.answer();
    second.answer();
    let expected = [
        end(1, 3, "overload"),
        end(0, 0, "what first"),
        end(0, 1, "what second"),
        end(1, 2, "what first"),
    ];
    assert_eq!(ended(&mut bench, 4), expected);
    assert_eq!(bench.stat("late"), 1);
    bench.stop();
    let rest = [end(2, 4, "cancelled"), end(2, 5, "cancelled")];
    assert_eq!(ends(&bench.messages)[4..], rest);
}

#[test]
fn a_window_that_is_not_asked_drops_the_requests_it_would_have_had() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, &[]);
    bench.frames(0..500);
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    bench.event(gst::event::Segment::new(&segment));
    let short = [end(0, 0, "too-short"), end(0, 1, "too-short")];
    assert_eq!(ended(&mut bench, 2), short);
    bench.frames(0..500);
    bench.event(gst::event::FlushStart::new());
    bench.event(gst::event::FlushStop::new(true));
    let flushed = [end(1, 2, "flush"), end(1, 3, "flush")];
    assert_eq!(ended(&mut bench, 4)[2..], flushed);
    assert_eq!((backend.waiting(), bench.stat("dropped")), (0, 4));
    bench.stop();
}

#[test]
fn a_flush_ends_the_requests_of_a_window_that_waits() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, &[]);
    bench.frames(0..1_000);
    let (first, second) = (backend.take(), backend.take());
    second.answer();
    bench.event(gst::event::FlushStart::new());
    bench.event(gst::event::FlushStop::new(true));
    let flushed = [end(0, 0, "flush"), end(0, 1, "flush")];
    assert_eq!(ended(&mut bench, 2), flushed);
    assert!(first.is_cancelled());
    first.answer();
    bench.stop();
    assert_eq!(ends(&bench.messages), flushed);
}

#[test]
fn at_the_end_of_the_stream_each_answered_request_is_told() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, &[("eos-timeout", "300000000")]);
    bench.frames(0..1_000);
    let (_first, second) = (backend.take(), backend.take());
    second.answer();
    assert!(bench.eos_in_thread()());
    let expected = [end(0, 0, "eos-timeout"), end(0, 1, "what second")];
    assert_eq!(ended(&mut bench, 2), expected);
    bench.stop();
}

#[test]
fn a_panic_between_the_requests_of_a_window_ends_both() {
    let mut backend = ManualBackend::default();
    let asks = AtomicUsize::new(0);
    backend.at = Arc::new(move |call| {
        let second = call == Call::Ask && asks.fetch_add(1, Ordering::SeqCst) == 1;
        assert!(!second, "on purpose");
    });
    let mut bench = bench(&backend, &[]);
    // The last frame may already be refused.
    for ms in [0, 500] {
        let _ = bench.push(ms);
    }
    let expected = [end(0, 0, "error"), end(0, 1, "error")];
    assert_eq!(ended(&mut bench, 2), expected);
    assert_eq!(bench.messages.errors.len(), 1);
    bench.stop();
    assert_eq!(ends(&bench.messages), expected);
}

/// Held video carries the descriptions of all requests, and the text pad has a text for each.
#[test]
fn a_file_carries_all_answers() {
    let line = "videotestsrc num-buffers=100 ! video/x-raw,width=64,height=64,framerate=10/1 ! \
                qwenvl name=q attach=window prompt=what ! fakesink name=v sync=false \
                q.text ! fakesink name=t sync=false";
    let run = Run::new(line, two(echo(Duration::from_millis(20))));
    let (video, text) = (Arc::default(), Arc::default());
    let watch = |name: &str, seen: &Arc<Mutex<Vec<gst::Buffer>>>| {
        let pad = run.pipeline.by_name(name).unwrap().static_pad("sink");
        let seen = seen.clone();
        pad.unwrap()
            .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                seen.lock().unwrap().extend(info.buffer().cloned());
                gst::PadProbeReturn::Ok
            });
    };
    watch("v", &video);
    watch("t", &text);
    let messages = run.finish();
    assert_eq!(ends(&messages).len(), 6);
    let video = std::mem::take(&mut *video.lock().unwrap());
    let carried = video.iter().map(|buffer| {
        let descriptions = gstqwenvl::meta::descriptions(buffer);
        let ids = descriptions.iter().map(|d| d.get("request-id").unwrap());
        ids.collect::<Vec<u64>>()
    });
    let window = |buffer: u64| buffer / 40;
    let both = (0..100).map(|buffer| vec![2 * window(buffer), 2 * window(buffer) + 1]);
    assert_eq!(carried.collect::<Vec<_>>(), both.collect::<Vec<_>>());
    let text = std::mem::take(&mut *text.lock().unwrap());
    let said = text.iter().map(|buffer| {
        let text = String::from_utf8(buffer.map_readable().unwrap().to_vec()).unwrap();
        let asked = text.rsplit(' ').next().unwrap().to_owned();
        (buffer.pts().unwrap().seconds(), asked)
    });
    let expected = [0, 4, 8].map(|start| ["first", "second"].map(|asked| (start, asked.into())));
    assert_eq!(said.collect::<Vec<_>>(), expected.concat());
}

/// With live video the texts of a window share its time.
#[test]
fn live_texts_follow_each_other() {
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, &[("text-timing", "answer")]);
    let texts = Arc::new(Mutex::new(Vec::new()));
    let note = texts.clone();
    let reader = gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(move |_, _, buffer| {
            let text = String::from_utf8(buffer.map_readable().unwrap().to_vec()).unwrap();
            note.lock().unwrap().push((text, buffer.duration()));
            Ok(gst::FlowSuccess::Ok)
        })
        .build();
    reader.set_active(true).unwrap();
    let pad = bench.element.request_pad_simple("text").unwrap();
    pad.link(&reader).unwrap();
    bench.frames(0..1_000);
    for _ in 0..2 {
        backend.take().answer();
    }
    wait_until("two texts", || texts.lock().unwrap().len() >= 2);
    let half = Some(gst::ClockTime::from_mseconds(500));
    let expected = ["what first", "what second"].map(|text| (text.to_owned(), half));
    assert_eq!(texts.lock().unwrap()[..2], expected);
    bench.stop();
}
