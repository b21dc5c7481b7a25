//! From a structure to a type, from there to JSON, and back.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::backend::fake::{FakeBackend, Outcome};
use qwen3_vl_core::event::{self, Answer, Timings};
use serde::de::DeserializeOwned;

use super::*;
use crate::message::{JSON, Request, WindowInfo};

fn text() -> impl Strategy<Value = String> {
    any::<String>().prop_map(|text| text.replace('\0', ""))
}

prop_compose! {
    fn request()(
        stream_id in text(),
        (window_id, request_id, utc) in any::<(u64, u64, Option<u64>)>(),
        prompt in text(),
        // 2^64-1 is no time.
        (start, end, frames) in (0..u64::MAX, 0..u64::MAX, vec(0..u64::MAX, 0..20)),
        partial in any::<bool>(),
    ) -> Request {
        gst::init().expect("GStreamer");
        let time = gst::ClockTime::from_nseconds;
        let window = WindowInfo {
            stream_id,
            id: window_id,
            segment: Arc::default(),
            start: time(start),
            end: time(end),
            partial,
            frames: frames.into_iter().map(time).collect(),
            utc,
        };
        Request {
            window: Arc::new(window),
            number: request_id,
            prompt,
        }
    }
}

prop_compose! {
    fn answer()(
        (text, reasoning) in any::<(String, Option<String>)>(),
        finish_reason in prop::sample::select(vec![
            event::FinishReason::Stop,
            event::FinishReason::Length,
            event::FinishReason::Repetition,
        ]),
        (grid, prompt_tokens, completion_tokens) in any::<([u32; 3], u32, u32)>(),
        times in any::<[u64; 5]>(),
    ) -> Answer {
        let [queue, vision, prefill, first_token, last_token] = times.map(Duration::from_nanos);
        Answer {
            text,
            reasoning,
            tokens: Vec::new(),
            finish_reason,
            grid,
            prompt_tokens,
            completion_tokens,
            timings: Timings { queue, vision, prefill, first_token, last_token },
        }
    }
}

/// All reasons. The match fails to compile when there is another one.
fn reasons() -> [Reason; 8] {
    use Reason::*;
    match Overload {
        Overload | Loading | Flush | Error | Cancelled | TooShort | Unmappable | EosTimeout => (),
    }
    [
        Overload, Loading, Flush, Error, Cancelled, TooShort, Unmappable, EosTimeout,
    ]
}

/// The message as its type, which as JSON is `json-message` and comes back from it.
fn converted<T>(structure: &gst::Structure) -> T
where
    T: for<'a> TryFrom<&'a gst::StructureRef, Error = MessageError>,
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let message = T::try_from(structure).expect("a message");
    let line: String = structure.get(JSON).expect("JSON");
    let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(serde_json::to_value(&message).expect("JSON"), json);
    assert_eq!(
        serde_json::from_str::<T>(&line).expect("a message"),
        message
    );
    message
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_description_converts(request in request(), answer in answer()) {
        let model = FakeBackend::new(Duration::ZERO, Outcome::Echo).model().clone();
        let structure = request.description(&answer, &model, Duration::ZERO);
        let description: Description = converted(&structure);
        prop_assert_eq!(description.grid, answer.grid);
        prop_assert_eq!(description.text, answer.text.replace('\0', "\u{fffd}"));
        let reasoning = answer.reasoning.map(|text| text.replace('\0', "\u{fffd}"));
        prop_assert_eq!(description.reasoning, reasoning);
        prop_assert_eq!(description.window.utc, request.window.utc);
        prop_assert_eq!(description.window.frames as usize, request.window.frames.len());
    }

    #[test]
    fn every_drop_converts(
        request in request(),
        reason in prop::sample::select(reasons().to_vec()),
        message in option::of(text()),
    ) {
        let structure = request.dropped(reason, message.as_deref());
        let dropped: Dropped = converted(&structure);
        prop_assert_eq!((dropped.reason, dropped.message), (reason, message));
    }
}

/// A description that converts.
fn good() -> gst::Structure {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let one = (request(), answer());
    let (request, answer) = one.new_tree(&mut runner).expect("a value").current();
    let model = FakeBackend::new(Duration::ZERO, Outcome::Echo)
        .model()
        .clone();
    request.description(&answer, &model, Duration::ZERO)
}

#[test]
fn errors_name_the_field() {
    let changed = |change: fn(&mut gst::Structure)| {
        let mut structure = good();
        change(&mut structure);
        let error = Description::try_from(structure.as_ref()).expect_err("no message");
        error.to_string()
    };
    for (error, said) in [
        (
            changed(|s| s.remove_field("text")),
            "the field text is missing",
        ),
        (
            changed(|s| s.set("text", None::<&str>)),
            "the field text is missing",
        ),
        (
            changed(|s| s.set("frames", "two")),
            "the field frames is of type gchararray, not guint",
        ),
        (
            changed(|s| s.set("frame-pts", gst::Array::new(["x"]))),
            "the field frame-pts is of type gchararray, not guint64",
        ),
        (
            changed(|s| s.set("finish-reason", "boredom")),
            "the field finish-reason has the unknown value boredom",
        ),
        (
            changed(|s| s.set("grid", gst::Array::new([1_u32, 2]))),
            "the field grid has the unknown value of 2 numbers",
        ),
        (
            changed(|s| s.set("schema-version", 2_u32)),
            "the field schema-version has the unknown value 2",
        ),
        (
            changed(|s| s.set_name("qwenvl/dropped")),
            "qwenvl/dropped is not qwenvl/description",
        ),
    ] {
        assert_eq!(error, said);
    }
}

#[test]
fn json_of_another_version_is_refused_and_new_fields_are_not() {
    let line: String = good().get(JSON).expect("JSON");
    let mut json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    json["new"] = 1.into();
    serde_json::from_value::<Description>(json.clone()).expect("a field that came later");
    json["schema-version"] = 2.into();
    let error = serde_json::from_value::<Description>(json).expect_err("another version");
    assert!(
        error.to_string().contains("schema-version is 2, not 1"),
        "{error}"
    );
}
