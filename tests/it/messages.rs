//! The fields of messages and metas.

use std::sync::Arc;

use gst::prelude::*;
use gstqwenvl::meta;
use qwen3_vl_core::backend::manual::ManualBackend;
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::frames::VisionInput;
use qwen3_vl_core::prompt::PromptLayout;

use crate::common::bench::Bench;
use crate::common::hooks;

const MS: u64 = 1_000_000;

fn u64s(structure: &gst::StructureRef, name: &str) -> Vec<u64> {
    let array: gst::Array = structure.get(name).unwrap();
    array.iter().map(|v| v.get().unwrap()).collect()
}

/// Buffers from 10 s of PTS on run from 0, and their stream time is 5 s less than their PTS.
fn shifted_segment() -> gst::Event {
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(gst::ClockTime::from_seconds(10));
    segment.set_time(gst::ClockTime::from_seconds(5));
    gst::event::Segment::new(&segment)
}

/// A live stream in windows of a second, two frames each.
fn short_windows(backend: &ManualBackend) -> Bench {
    let properties = [("window-duration", "1000000000"), ("min-frames", "2")];
    Bench::new(hooks(Arc::new(backend.clone())), true, &properties).ready()
}

#[test]
fn all_fields_of_a_description() {
    let backend = ManualBackend::default();
    let mut bench = Bench::new(
        hooks(Arc::new(backend.clone())),
        true,
        &[
            ("window-duration", "2000000000"),
            ("prompt", "What?"),
            ("system-prompt", "Short."),
            ("prompt-layout", "nested"),
            ("stream-id", "gate 3"),
            ("emit-tokens", "true"),
            ("max-tokens", "7"),
            ("temperature", "0.5"),
            ("top-k", "9"),
            ("seed", "42"),
        ],
    )
    .ready();
    assert!(bench.event(shifted_segment()));
    let mut first = Bench::buffer(10_000);
    gst::ReferenceTimestampMeta::add(
        first.get_mut().unwrap(),
        &gst::Caps::new_empty_simple("timestamp/x-ntp"),
        gst::ClockTime::from_seconds(2_208_988_800 + 1_700_000_000),
        gst::ClockTime::NONE,
    );
    bench.harness.push(first).unwrap();
    bench.frames(10_500..12_000);

    let mut asked = backend.take();
    assert_eq!(asked.head.layout, PromptLayout::Nested);
    assert_eq!(asked.head.system_prompt.as_deref(), Some("Short."));
    assert_eq!(asked.request.max_tokens, 7);
    assert_eq!(asked.request.seed, 42);
    assert_eq!(asked.request.sampling.temperature, 0.5);
    assert_eq!(asked.request.sampling.top_k, 9);
    // From the checkpoint.
    assert_eq!(asked.request.sampling.top_p, 1.0);
    assert_eq!(asked.request.repetition_guard, 64);
    let VisionInput::Pair([a, b]) = &asked.inputs[1] else {
        panic!("no pair");
    };
    assert_eq!((a.seconds, b.seconds), (1.0, 1.5));
    assert_eq!(a.rgb.len(), 96 * 64 * 3);
    asked.token(1012, "Wh");
    asked.token(7, "at?");
    asked.answer();
    bench.ended(1);

    let tokens = bench.messages.named("qwenvl/token");
    let number = |s: &gst::Structure, name| s.get::<u32>(name).unwrap();
    let pieces: Vec<(u32, u32, String)> = tokens
        .iter()
        .map(|s| {
            let text = s.get("text").unwrap();
            (number(s, "index"), number(s, "token-id"), text)
        })
        .collect();
    assert_eq!(pieces, [(0, 1012, "Wh".into()), (1, 7, "at?".into())]);

    let s = bench.messages.descriptions()[0];
    let text = |name| s.get::<String>(name).unwrap();
    let number = |name| s.get::<u64>(name).unwrap();
    assert_eq!(s.get::<u32>("schema-version"), Ok(1));
    assert_eq!(text("stream-id"), "gate 3");
    assert_eq!(text("kind"), "window");
    assert_eq!(text("prompt"), "What?");
    assert_eq!(text("text"), "What?");
    assert_eq!(text("finish-reason"), "length");
    assert_eq!(text("model"), "fake");
    assert_eq!(text("backend"), "fake");
    assert_eq!(text("device"), "none");
    assert_eq!((number("window-id"), number("request-id")), (0, 0));
    assert_eq!(
        (number("start-pts"), number("end-pts")),
        (10_000 * MS, 12_000 * MS)
    );
    assert_eq!(
        (number("start-running-time"), number("end-running-time")),
        (0, 2_000 * MS)
    );
    assert_eq!(
        (number("start-stream-time"), number("end-stream-time")),
        (5_000 * MS, 7_000 * MS)
    );
    assert_eq!(number("utc"), 1_700_000_000_000 * MS);
    assert_eq!(s.get::<bool>("partial"), Ok(false));
    assert_eq!(s.get::<u32>("frames"), Ok(4));
    assert_eq!(
        u64s(s, "frame-pts"),
        [10_000, 10_500, 11_000, 11_500].map(|t| t * MS)
    );
    let grid: gst::Array = s.get("grid").unwrap();
    let grid: Vec<u32> = grid.iter().map(|v| v.get().unwrap()).collect();
    assert_eq!(grid, [2, 4, 6]);
    assert_eq!(s.get::<u32>("prompt-tokens"), Ok(40));
    assert_eq!(s.get::<u32>("completion-tokens"), Ok(3));
    assert_eq!((number("queue-time"), number("vision-time")), (1, 2));
    assert_eq!(number("prefill-time"), 3);
    // The worker's own time is added.
    assert!(number("first-token-time") >= 4);
    assert_eq!(number("last-token-time") - number("first-token-time"), 1);
    bench.stop();
}

#[test]
fn the_next_buffer_carries_the_description() {
    let backend = ManualBackend::default();
    let mut bench = short_windows(&backend);
    bench.frames(0..2_000);
    backend.take().answer();
    backend.take().answer();
    bench.ended(2);
    for _ in 0..4 {
        let buffer = bench.harness.pull().unwrap();
        assert!(meta::descriptions(&buffer).is_empty());
    }
    let buffer = Bench::buffer(2_000);
    let memory = buffer.peek_memory(0).as_ptr();
    // A second reference: the header is copied, the memory is not.
    let held = buffer.clone();
    bench.harness.push(buffer).unwrap();
    let passed = bench.harness.pull().unwrap();
    assert_eq!(passed.peek_memory(0).as_ptr(), memory);
    assert!(meta::descriptions(&held).is_empty());
    let ids: Vec<u64> = meta::descriptions(&passed)
        .iter()
        .map(|s| s.get("window-id").unwrap())
        .collect();
    assert_eq!(ids, [0, 1]);
    // A copy keeps it, and the buffer after it has none.
    assert_eq!(meta::descriptions(&passed.copy_deep().unwrap()).len(), 2);
    bench.push(2_100).unwrap();
    assert!(meta::descriptions(&bench.harness.pull().unwrap()).is_empty());
    bench.stop();
}

#[test]
fn a_failed_request_is_dropped_and_the_next_one_answered() {
    let backend = ManualBackend::default();
    let mut bench = short_windows(&backend);
    bench.frames(0..2_000);
    let too_long = Failure::Invalid("too many tokens".into());
    backend.take().end(Event::Failed(too_long));
    backend.take().answer();
    bench.ended(2);
    assert_eq!(bench.messages.dropped(), ["error"]);
    let dropped = bench.messages.named("qwenvl/dropped")[0];
    assert_eq!(dropped.get::<String>("message").unwrap(), "too many tokens");
    assert_eq!(dropped.get::<u64>("end-pts"), Ok(1_000 * MS));
    assert_eq!(bench.messages.descriptions().len(), 1);
    assert!(bench.messages.errors.is_empty());
    bench.stop();
}

#[test]
fn a_window_that_the_cache_cannot_hold_is_overload() {
    let backend = ManualBackend::default();
    let mut bench = short_windows(&backend);
    bench.frames(0..1_000);
    backend
        .take()
        .end(Event::Failed(Failure::Full("full".into())));
    bench.ended(1);
    assert_eq!(bench.messages.dropped(), ["overload"]);
    bench.stop();
}

#[test]
fn properties_change_with_the_next_window() {
    let backend = ManualBackend::default();
    let mut bench = short_windows(&backend);
    bench.frames(0..500);
    bench.element.set_property("prompt", "Later?");
    bench
        .element
        .set_property("window-duration", 2_000_000_000u64);
    bench.frames(500..1_000);
    let first = backend.take();
    assert_eq!(first.request.prompt, "Describe this video.");
    bench.frames(1_000..1_500);
    // Invalid, so the last valid settings stay.
    bench.element.set_property("fps", gst::Fraction::new(0, 1));
    bench.frames(1_500..3_000);
    let asked = backend.take();
    assert_eq!(asked.request.prompt, "Later?");
    assert_eq!(asked.inputs.len(), 2);
    bench.collect();
    let warnings = bench.messages.warnings.iter();
    let about_fps = warnings.filter(|warning| warning.message().contains("fps is 0/1"));
    assert_eq!(about_fps.count(), 1);
    bench.stop();
}

#[test]
fn images_are_given_one_by_one() {
    let backend = ManualBackend::default();
    let mut bench = Bench::new(
        hooks(Arc::new(backend.clone())),
        true,
        &[
            ("window-duration", "1500000000"),
            ("min-frames", "1"),
            ("mode", "images"),
        ],
    )
    .ready();
    bench.frames(0..1_500);
    let asked = backend.take();
    assert_eq!(asked.inputs.len(), 3);
    assert!(matches!(asked.inputs[0], VisionInput::Image(_)));
    // The checkpoint's least for an image is 65536 pixels.
    assert!(asked.inputs[0].size().width * asked.inputs[0].size().height >= 65_536);
    bench.stop();
}
