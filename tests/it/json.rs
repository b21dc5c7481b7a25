//! The field `json-message`, its schema and its page; text that a C string cannot hold.

use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gstqwenvl::meta;
use qwen3_vl_core::backend::manual::ManualBackend;
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;
use serde_json::Value;

use crate::common::bench::Bench;
use crate::common::{hooks, schema, wait_until};

const SCHEMA: &str = include_str!("../../docs/messages.schema.json");
const PAGE: &str = include_str!("../../docs/messages.md");

/// A live stream in windows of a second, two frames each.
fn bench(backend: &ManualBackend, more: &[(&str, &str)]) -> Bench {
    let mut properties = vec![("window-duration", "1000000000"), ("min-frames", "2")];
    properties.extend(more);
    Bench::new(hooks(Arc::new(backend.clone())), true, &properties).ready()
}

/// A field as JSON, read by its type here.
fn field(value: &gst::glib::Value) -> Value {
    let array = |array: gst::Array| array.iter().map(|item| field(item)).collect();
    (value.get::<String>().map(Value::from))
        .or_else(|_| value.get::<bool>().map(Value::from))
        .or_else(|_| value.get::<u32>().map(Value::from))
        .or_else(|_| value.get::<u64>().map(Value::from))
        .or_else(|_| value.get::<gst::Array>().map(array))
        .unwrap()
}

/// `json-message`, after a comparison with the other fields and with the schema.
pub fn json(s: &gst::StructureRef) -> Value {
    let line: String = s.get("json-message").unwrap();
    assert!(!line.contains('\n'), "{line}");
    let json: Value = serde_json::from_str(&line).unwrap();
    let others = s.iter().filter(|(name, _)| *name != "json-message");
    let others: Value = others
        .map(|(name, value)| (name.to_string(), field(value)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert_eq!(json, others);
    schema::check(&serde_json::from_str(SCHEMA).unwrap(), &json);
    for name in json.as_object().unwrap().keys() {
        let listed = PAGE.contains(&format!("`{name}`"));
        assert!(listed, "docs/messages.md does not say what {name} is");
    }
    json
}

#[test]
fn json_message_holds_every_field_of_every_message() {
    let backend = ManualBackend::default();
    let text = "She said \"stop; go\\\".\r\n\tüber 🚦 \u{1} \u{7f} \u{2028} </script>, NULL";
    let mut bench = bench(
        &backend,
        &[("emit-tokens", "true"), ("prompt", "a \"b\"\n; c")],
    );
    bench.frames(0..2_000);
    let mut asked = backend.take();
    asked.token(7, text);
    asked.answer_with(text.into());
    let failure = Failure::Invalid("no \"room\"\n;".into());
    backend.take().end(Event::Failed(failure));
    bench.ended(2);
    let all: Vec<Value> = bench.messages.structures.iter().map(|s| json(s)).collect();
    let [token, description, dropped] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!(token["text"], text);
    assert_eq!(token["index"], 0);
    assert_eq!(description["text"], text);
    assert_eq!(description["prompt"], "a \"b\"\n; c");
    assert_eq!(
        description["frame-pts"],
        serde_json::json!([0, 500_000_000])
    );
    assert_eq!(description["grid"], serde_json::json!([1, 4, 6]));
    assert_eq!(description["partial"], false);
    assert_eq!(dropped["reason"], "error");
    assert_eq!(dropped["message"], "no \"room\"\n;");
    assert_eq!(dropped["end-pts"], 2_000_000_000_u64);

    // As `gst-launch-1.0 -m` prints them, and as they are read again.
    for s in &bench.messages.structures {
        let again: gst::Structure = s.to_string().parse().unwrap();
        assert_eq!(&again, s);
    }
    bench.stop();
}

/// GStreamer's strings end at a NUL: the text behind it would be lost.
#[test]
fn a_nul_in_an_answer_is_replaced_everywhere() {
    const SAID: &str = "before\0after\0";
    const SHOWN: &str = "before\u{fffd}after\u{fffd}";
    let backend = ManualBackend::default();
    let mut bench = bench(&backend, &[("emit-tokens", "true")]);
    let texts = Arc::new(Mutex::new(Vec::new()));
    let seen = texts.clone();
    let reader = gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(move |_, _, buffer| {
            let text = buffer.map_readable().unwrap().to_vec();
            seen.lock().unwrap().push(String::from_utf8(text).unwrap());
            Ok(gst::FlowSuccess::Ok)
        })
        .build();
    reader.set_active(true).unwrap();
    let pad = bench.element.request_pad_simple("text").unwrap();
    pad.link(&reader).unwrap();
    let signals = Arc::new(Mutex::new(Vec::new()));
    let signalled = signals.clone();
    bench.element.connect("description", false, move |values| {
        let s: gst::Structure = values[1].get().unwrap();
        let text: String = s.get("text").unwrap();
        signalled.lock().unwrap().push(text);
        None
    });

    bench.frames(0..2_000);
    let mut asked = backend.take();
    asked.token(7, SAID);
    asked.answer_with(SAID.into());
    let failure = Failure::Invalid(SAID.into());
    backend.take().end(Event::Failed(failure));
    bench.ended(2);
    for s in &bench.messages.structures {
        let name = if s.name() == "qwenvl/dropped" {
            "message"
        } else {
            "text"
        };
        assert_eq!(s.get::<String>(name).unwrap(), SHOWN);
        assert_eq!(json(s)[name], SHOWN);
    }
    assert_eq!(bench.messages.structures.len(), 3);
    assert_eq!(*signals.lock().unwrap(), [SHOWN]);
    wait_until("a text", || !texts.lock().unwrap().is_empty());
    assert!(
        texts.lock().unwrap().iter().all(|text| text == SHOWN),
        "{texts:?}"
    );
    while bench.harness.buffers_in_queue() > 0 {
        bench.harness.pull().unwrap();
    }
    bench.push(2_100).unwrap();
    let described = meta::descriptions(&bench.harness.pull().unwrap());
    assert_eq!(described[0].get::<String>("text").unwrap(), SHOWN);
    bench.stop();
}
