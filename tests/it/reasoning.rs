//! The thought of a thinking model: hidden unless `reasoning` is set, and never a part of the
//! answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::ClockTime;
use gst::prelude::*;
use gstqwenvl::meta;
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::backend::fake::{FakeBackend, Outcome};
use qwen3_vl_core::backend::manual::ManualBackend;

use crate::common::bench::Bench;
use crate::common::{Run, hooks, wait_until};
use crate::json::json;

const THOUGHT: &str = "Two \"cars\".\n";

/// A live stream in windows of a second, two frames each.
fn bench(backend: &ManualBackend, more: &[(&str, &str)]) -> Bench {
    let seconds = [("window-duration", "1000000000"), ("min-frames", "2")];
    let properties = [&seconds, more].concat();
    Bench::new(hooks(Arc::new(backend.clone())), true, &properties).ready()
}

/// Answers a window of a model that thinks, whose text pad is read. Returns the texts of the pad,
/// and the structures of the bus and of the meta.
fn answered(more: &[(&str, &str)]) -> (Vec<String>, Vec<gst::Structure>, gst::Structure) {
    let backend = ManualBackend::thinking();
    let mut bench = bench(&backend, &[&[("emit-tokens", "true")], more].concat());
    let texts = Arc::new(Mutex::new(Vec::new()));
    let seen = texts.clone();
    let reader = gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(move |_, _, buffer: gst::Buffer| {
            let text = buffer.map_readable().unwrap().to_vec();
            seen.lock().unwrap().push(String::from_utf8(text).unwrap());
            Ok(gst::FlowSuccess::Ok)
        })
        .build();
    reader.set_active(true).unwrap();
    let pad = bench.element.request_pad_simple("text").unwrap();
    pad.link(&reader).unwrap();
    let signals = Arc::new(Mutex::new(Vec::new()));
    let note = signals.clone();
    bench.element.connect("description", false, move |values| {
        let structure: gst::Structure = values[1].get().unwrap();
        note.lock().unwrap().push(structure);
        None
    });
    bench.frames(0..1_000);
    let mut asked = backend.take();
    asked.reasoning_token(1, "Two \"cars\"");
    asked.reasoning_token(2, ".\n");
    asked.reasoning_token(3, "");
    asked.token(4, "Traffic");
    asked.token(5, "");
    asked.answer_after(Some(THOUGHT.into()), "Traffic".into());
    bench.ended(1);
    wait_until("a text", || !texts.lock().unwrap().is_empty());
    let structures = bench.messages.structures.clone();
    while bench.harness.try_pull().is_some() {}
    bench.push(1_000).unwrap();
    let buffer = bench.harness.pull().unwrap();
    let [description] = <[gst::Structure; 1]>::try_from(meta::descriptions(&buffer)).unwrap();
    assert_eq!(
        signals.lock().unwrap().as_slice(),
        std::slice::from_ref(&description)
    );
    bench.stop();
    let texts = texts.lock().unwrap().clone();
    (texts, structures, description)
}

#[test]
fn a_thought_is_hidden_unless_it_is_asked_for() {
    let (texts, structures, description) = answered(&[]);
    assert!(texts.iter().all(|text| text == "Traffic"), "{texts:?}");
    let all: Vec<_> = structures.iter().map(|s| json(s)).collect();
    let [first, second, last] = &all[..] else {
        panic!("{all:?}")
    };
    for (token, index, id, text) in [(first, 0, 4, "Traffic"), (second, 1, 5, "")] {
        assert_eq!(token["index"], index);
        assert_eq!(token["token-id"], id);
        assert_eq!(token["text"], text);
        assert_eq!(token["reasoning"], false);
    }
    assert_eq!(last["text"], "Traffic");
    assert_eq!(last.get("reasoning"), None);
    // Nowhere.
    assert!(!format!("{structures:?} {description}").contains("cars"));
}

#[test]
fn a_thought_is_in_the_messages_and_never_in_the_text() {
    let (texts, structures, description) = answered(&[("reasoning", "true")]);
    assert!(texts.iter().all(|text| text == "Traffic"), "{texts:?}");
    let all: Vec<_> = structures.iter().map(|s| json(s)).collect();
    let (last, tokens) = all.split_last().unwrap();
    let told: Vec<_> = tokens
        .iter()
        .map(|token| (token["index"].as_u64(), token["reasoning"].as_bool()))
        .collect();
    let expected = [true, true, true, false, false].into_iter().zip(0..);
    let expected: Vec<_> = expected
        .map(|(of, index)| (Some(index), Some(of)))
        .collect();
    assert_eq!(told, expected);
    let text = |of: bool| {
        let tokens = tokens.iter().filter(|token| token["reasoning"] == of);
        tokens
            .map(|token| token["text"].as_str().unwrap())
            .collect::<String>()
    };
    assert_eq!(
        (text(true).as_str(), text(false).as_str()),
        (THOUGHT, "Traffic")
    );
    assert_eq!(
        (&last["reasoning"], &last["text"]),
        (&THOUGHT.into(), &"Traffic".into())
    );
    assert_eq!(description.get::<&str>("reasoning"), Ok(THOUGHT));
    assert_eq!(description.get::<&str>("text"), Ok("Traffic"));
}

/// The bound of a thought goes to models that are expected to think.
#[test]
fn who_is_expected_to_think() {
    let asked = |backend: ManualBackend, more: &[(&str, &str)]| {
        let mut bench = bench(&backend, more);
        bench.frames(0..1_000);
        let asked = backend.take();
        bench.stop();
        (asked.request.reasoning_tokens, asked.head.tokens)
    };
    let thinks = ManualBackend::thinking;
    let answers = ManualBackend::default;
    let (none, tokens) = asked(answers(), &[]);
    assert_eq!(none, 0);
    assert_eq!(asked(thinks(), &[]), (2048, tokens + 2048));
    assert_eq!(asked(thinks(), &[("reasoning-tokens", "0")]), (0, tokens));
    assert_eq!(
        asked(thinks(), &[("reasoning-tokens", "7")]),
        (7, tokens + 7)
    );
    assert_eq!(asked(answers(), &[("reasoning-tokens", "7")]), (0, tokens));
    let wanted = [("reasoning-tokens", "7"), ("reasoning", "true")];
    assert_eq!(asked(answers(), &wanted), (7, tokens + 7));
    // More than fits: an answer may use the whole context.
    let (most, tokens) = asked(thinks(), &[("reasoning-tokens", "4294967295")]);
    assert_eq!((most, tokens), (u32::MAX, 262_144));
}

#[test]
fn a_pipeline_with_a_model_that_thinks() {
    let line = "videotestsrc num-buffers=80 ! video/x-raw,width=64,height=64,framerate=10/1 ! \
                qwenvl name=q reasoning=true ! fakesink";
    let backend = FakeBackend::new(Duration::ZERO, Outcome::ThinkAndEcho);
    assert!(backend.model().thinks);
    let messages = Run::new(line, hooks(Arc::new(backend))).finish();
    let descriptions = messages.descriptions();
    assert_eq!(descriptions.len(), 2);
    for description in descriptions {
        assert_eq!(
            description.get::<&str>("reasoning"),
            Ok("There are 4 inputs.")
        );
        let text = "4 inputs of 64x64: Describe this video.";
        assert_eq!(description.get::<&str>("text"), Ok(text));
    }
}

/// A thought that had no end leaves an empty text, which is a description like others, but nothing
/// on the text pad: neither the texts around it nor the end move.
#[test]
fn an_empty_text_does_not_move_the_others() {
    for timing in ["span", "answer"] {
        let line = format!(
            "videotestsrc num-buffers=30 ! video/x-raw,width=64,height=64,framerate=10/1 ! \
             qwenvl name=q window-duration=1000000000 min-frames=2 overload=block max-pending=9 \
             text-timing={timing} ! fakesink name=v async=false q.text ! \
             fakesink name=t async=false"
        );
        let backend = ManualBackend::thinking();
        let run = Run::new(&line, hooks(Arc::new(backend.clone())));
        let pad = run.pipeline.by_name("t").unwrap();
        let pad = pad.static_pad("sink").unwrap();
        let texts = Arc::new(Mutex::new(Vec::new()));
        let seen = texts.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let buffer = info.buffer().unwrap();
            let text = buffer.map_readable().unwrap();
            let text = String::from_utf8(text.to_vec()).unwrap();
            seen.lock().unwrap().push((buffer.pts().unwrap(), text));
            gst::PadProbeReturn::Ok
        });
        let answers = std::thread::spawn(move || {
            for text in ["first", "", "third"] {
                backend
                    .take()
                    .answer_after(Some(THOUGHT.into()), text.into());
            }
        });
        let messages = run.finish();
        answers.join().unwrap();
        let said: Vec<String> = messages
            .descriptions()
            .iter()
            .map(|s| s.get("text").unwrap())
            .collect();
        assert_eq!(said, ["first", "", "third"], "{timing}");
        assert!(messages.eos, "{timing}");
        let texts = texts.lock().unwrap();
        assert!(texts.is_sorted(), "{timing}: {texts:?}");
        let mut order: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
        order.dedup();
        assert_eq!(order, ["first", "third"], "{timing}");
        if timing == "span" {
            let starts: Vec<ClockTime> = texts.iter().map(|(start, _)| *start).collect();
            assert_eq!(starts, [0, 2].map(ClockTime::from_seconds));
        }
    }
}

/// The property `preset`.
mod presets {
    use super::*;

    fn with(properties: &[(&str, &str)]) -> gst::Element {
        crate::common::init();
        let element = gst::ElementFactory::make("qwenvl").build().unwrap();
        for (name, value) in properties {
            element.set_property_from_str(name, value);
        }
        element
    }

    fn values(element: &gst::Element) -> (Option<String>, gst::Fraction, u32, u32) {
        (
            element.property("system-prompt"),
            element.property("fps"),
            element.property("max-tokens"),
            element.property("reasoning-tokens"),
        )
    }

    fn cosmos() -> (Option<String>, gst::Fraction, u32, u32) {
        let system = "You are a helpful assistant.".into();
        (Some(system), gst::Fraction::new(4, 1), 4096, 4096)
    }

    const PRESET: (&str, &str) = ("preset", "cosmos-reason2");

    #[test]
    fn what_was_set_wins_in_any_order() {
        let element = with(&[PRESET]);
        assert_eq!(values(&element), cosmos());
        element.set_property_from_str("preset", "none");
        assert_eq!(
            values(&element),
            (None, gst::Fraction::new(2, 1), 256, 2048)
        );
        for properties in [
            [PRESET, ("fps", "1/1"), ("max-tokens", "9")],
            [("fps", "1/1"), PRESET, ("max-tokens", "9")],
            [("fps", "1/1"), ("max-tokens", "9"), PRESET],
        ] {
            let element = with(&properties);
            let (system, _, _, reasoning) = cosmos();
            let expected = (system, gst::Fraction::new(1, 1), 9, reasoning);
            assert_eq!(values(&element), expected);
            element.set_property_from_str("preset", "none");
            let expected = (None, gst::Fraction::new(1, 1), 9, 2048);
            assert_eq!(values(&element), expected);
        }
        // Also what was set to the default, and a NULL.
        let element = with(&[("max-tokens", "256")]);
        element.set_property("system-prompt", None::<&str>);
        element.set_property_from_str("preset", "cosmos-reason2");
        assert_eq!(
            values(&element),
            (None, gst::Fraction::new(4, 1), 256, 4096)
        );
    }

    #[test]
    fn others_are_told_of_the_change() {
        let element = with(&[("fps", "1/1")]);
        let told = Arc::new(Mutex::new(Vec::new()));
        let note = told.clone();
        element.connect_notify(None, move |_, property| {
            note.lock().unwrap().push(property.name().to_owned());
        });
        element.set_property_from_str("preset", "cosmos-reason2");
        let mut told = told.lock().unwrap().clone();
        told.sort();
        assert_eq!(
            told,
            ["max-tokens", "preset", "reasoning-tokens", "system-prompt"]
        );
    }

    #[test]
    fn cosmos_reason2_is_asked_as_in_its_examples() {
        let asked = |more: &[(&str, &str)]| {
            let backend = ManualBackend::default();
            let mut properties = vec![PRESET, ("prompt", "What happens?"), ("min-frames", "2")];
            properties.extend(more);
            let mut bench =
                Bench::new(hooks(Arc::new(backend.clone())), false, &properties).ready();
            for ms in (0..4_000).step_by(250) {
                bench.push(ms).unwrap();
            }
            bench.push(4_000).unwrap();
            let asked = backend.take();
            bench.stop();
            asked
        };
        let plain = asked(&[]);
        assert_eq!(plain.request.prompt, "What happens?");
        assert_eq!(plain.request.max_tokens, 4096);
        assert_eq!(
            plain.request.reasoning_tokens, 4096,
            "it may think all the same"
        );
        let system = plain.head.system_prompt.as_deref();
        assert_eq!(system, Some("You are a helpful assistant."));
        // Four frames a second in four seconds.
        assert_eq!(plain.inputs.len(), 8);
        // 16 frames of 96x64 are below the least pixels, 256 tokens of 32x32.
        let size = plain.inputs[0].size();
        let pixels = 16 * size.width * size.height;
        assert!((262_144..2 * 262_144).contains(&pixels), "{size:?}");
        let thinks = asked(&[("reasoning", "true")]);
        assert_eq!(
            thinks.request.prompt,
            "What happens?\n\nAnswer the question using the following format:\n\n<think>\n\
             Your reasoning.\n</think>\n\nWrite your final answer immediately after the \
             </think> tag."
        );
    }
}
