//! The demo model behind demuxer and decoder: right answers, as many as Hugging Face's pipeline
//! gives on the same files (`hf…` in media/*.json, written by tools/demo-model/ask_hf.py).

use gst::prelude::*;
use serde_json::Value;

use crate::common::demo::{self, DESCRIBE};
use crate::common::media::{self, text};

/// GStreamer's conversion to RGB differs from PyAV's by a level or so; a borderline answer may too.
const SLACK: usize = 1;

#[test]
fn every_scene_of_the_film_is_described_rightly() {
    let run = demo::file(&media::path("film.mp4"), &format!("prompt=\"{DESCRIBE}\""));
    let messages = run.finish();
    let truths = media::rows("film.json");
    let wanted: Vec<&str> = truths.iter().map(|row| text(row, "describe")).collect();
    assert_eq!(demo::texts(&messages), wanted);
    for (s, row) in messages.descriptions().iter().zip(&truths) {
        let second = |field: &str| row[field].as_u64().unwrap() * 1_000_000_000;
        assert_eq!(s.get::<u64>("start-pts").unwrap(), second("start"));
        assert_eq!(s.get::<u64>("end-pts").unwrap(), second("end"));
    }
}

/// Rounding to 8 bits costs less than what separates the scenes.
#[test]
fn eight_bit_weights_tell_the_same() {
    let properties = format!("prompt=\"{DESCRIBE}\" quantization=q8-0");
    let messages = demo::file(&media::path("film.mp4"), &properties).finish();
    let truths = media::rows("film.json");
    let wanted: Vec<&str> = truths.iter().map(|row| text(row, "describe")).collect();
    assert_eq!(demo::texts(&messages), wanted);
    let loaded = messages
        .progress
        .iter()
        .any(|(_, text)| text == "Loaded demo (q8-0) on cpu, compute=fast");
    assert!(loaded, "{:?}", messages.progress);
}

#[test]
fn every_window_that_the_cache_cannot_hold_says_so() {
    let run = demo::file(&media::path("film.mp4"), "kv-memory=1");
    let messages = run.finish();
    assert!(messages.eos && messages.errors.is_empty(), "{messages:?}");
    let dropped = messages.named("qwenvl/dropped");
    assert_eq!(dropped.len(), media::rows("film.json").len());
    for s in dropped {
        let text: String = s.get("message").unwrap();
        assert!(text.contains("kv-memory"), "{text}");
        assert_eq!(s.get::<String>("reason").unwrap(), "error");
    }
}

/// Overlapping windows, in a cache that holds few of them, wait for each other.
#[test]
fn a_file_waits_for_free_blocks_of_a_small_cache() {
    let answers = |more: &str| {
        let properties = format!("prompt=\"{DESCRIBE}\" window-stride=1000000000 {more}");
        let run = demo::file(&media::path("film.mp4"), &properties);
        demo::texts(&run.finish())
    };
    let all = answers("");
    assert!(all.len() > 20);
    assert_eq!(answers("kv-memory=3000000"), all);
}

#[test]
fn clips_are_described_as_well_as_by_transformers() {
    compare(DESCRIBE, "describe", "hf");
}

#[test]
fn clips_are_reported_in_json_as_well_as_by_transformers() {
    compare("Answer in JSON.", "json", "hf_json");
}

/// Counts right answers, and those that equal Hugging Face's.
fn compare(prompt: &str, truth: &str, reference: &str) {
    let rows = media::rows("clips.json");
    let (mut right, mut right_there, mut same) = (0, 0, 0);
    for row in &rows {
        let answer = ask(row, prompt, fps(row, "fps"));
        right += usize::from(answer == text(row, truth));
        right_there += usize::from(text(row, reference) == text(row, truth));
        same += usize::from(answer == text(row, reference));
    }
    assert!(right_there >= 16, "the reference itself is poor");
    assert!(
        right + SLACK >= right_there,
        "{right} right, transformers {right_there}"
    );
    assert!(
        same + SLACK >= rows.len(),
        "{same} of {} as transformers",
        rows.len()
    );
}

#[test]
fn the_declared_rate_decides_between_fast_and_slow() {
    let rows = media::rows("clips.json");
    let flips: Vec<&Value> = rows
        .iter()
        .filter(|row| row["flipped_fps"].is_u64())
        .collect();
    assert!(flips.len() >= 6);
    let (mut flipped, mut flipped_there) = (0, 0);
    for row in &flips {
        let prompt = "Is traffic moving fast or slow?";
        let own = ask(row, prompt, fps(row, "fps"));
        let other = ask(row, prompt, fps(row, "flipped_fps"));
        assert_eq!(own, text(row, "hf_speed"), "{}", row["file"]);
        assert_eq!(own, format!("Traffic is {}.", text(row, "speed")));
        flipped += usize::from(own != other);
        flipped_there += usize::from(text(row, "hf_speed") != text(row, "hf_flipped"));
    }
    assert!(flipped_there >= 5, "the reference itself is poor");
    assert!(
        flipped + SLACK >= flipped_there,
        "{flipped} of {} flip, transformers {flipped_there}",
        flips.len()
    );
}

fn fps(row: &Value, field: &str) -> u64 {
    row[field].as_u64().unwrap()
}

/// The answer about a whole clip, played as `rate` frames a second.
fn ask(row: &Value, prompt: &str, rate: u64) -> String {
    let properties = format!("prompt=\"{prompt}\" fps={rate}/1 window-duration=8000000000");
    let run = demo::file(&media::path(text(row, "file")), &properties);
    let own = fps(row, "fps");
    let pad = run.element.static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let header = info.buffer_mut().unwrap().make_mut();
        let scaled = |time: Option<gst::ClockTime>| time.map(|time| time * own / rate);
        header.set_pts(scaled(header.pts()));
        header.set_duration(scaled(header.duration()));
        gst::PadProbeReturn::Ok
    });
    let mut texts = demo::texts(&run.finish());
    assert_eq!(texts.len(), 1, "{}: {texts:?}", row["file"]);
    texts.remove(0)
}

#[test]
fn the_film_in_json() {
    let run = demo::file(&media::path("film.mp4"), "prompt=\"Describe the traffic.\"");
    let messages = run.finish();
    let rows = media::rows("film.json");
    let descriptions = messages.descriptions();
    assert_eq!(descriptions.len(), rows.len());
    for (s, row) in descriptions.into_iter().zip(&rows) {
        let json = crate::json::json(s);
        assert_eq!(json["text"], row["describe"]);
        let start = row["start"].as_u64().unwrap() * 1_000_000_000;
        assert_eq!(json["start-pts"], start);
        assert_eq!(json["model"], "demo");
    }
}
