//! `attach=window`: the video waits for its descriptions and carries them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::bench::Bench;
use common::camera::{BUFFERS, Camera};
use common::manual::Manual;
use common::{Messages, Run, echo, hooks, in_time, wait_until};
use gst::ClockTime;
use gst::prelude::*;

/// Window ids of the descriptions that a buffer carries, after its PTS in milliseconds.
type Carried = (u64, Vec<u64>);

fn carried(buffer: &gst::BufferRef) -> Carried {
    let descriptions = gstqwenvl::meta::descriptions(buffer);
    let ids = descriptions.iter().map(|d| d.get("window-id").unwrap());
    (buffer.pts().unwrap().mseconds(), ids.collect())
}

fn bench(backend: &Manual, live: bool, properties: &[(&str, &str)]) -> Bench {
    let properties = [&[("attach", "window")], properties].concat();
    let bench = Bench::new(hooks(Arc::new(backend.clone())), live, &properties);
    bench.ready()
}

/// What has come out so far.
fn out(bench: &mut Bench) -> Vec<Carried> {
    std::iter::from_fn(|| bench.harness.try_pull())
        .map(|buffer| carried(&buffer))
        .collect()
}

/// Waits until `count` buffers have come out.
fn wait_out(bench: &mut Bench, count: usize) -> Vec<Carried> {
    wait_until("buffers", || {
        bench.harness.buffers_in_queue() as usize >= count
    });
    out(bench)
}

/// A window of four frames from `start` on, in milliseconds.
fn window(start: u64, ids: &[u64]) -> Vec<Carried> {
    let frames = (0..4).map(|i| start + i * 500);
    frames.map(|ms| (ms, ids.to_vec())).collect()
}

const TWO_SECONDS: (&str, &str) = ("window-duration", "2000000000");

/// Runs a file through and gives what the last element saw.
fn file(properties: &str) -> (Vec<Carried>, Messages) {
    let line = format!(
        "videotestsrc num-buffers=100 ! video/x-raw,width=64,height=64,framerate=10/1 ! \
         qwenvl name=q attach=window {properties} ! fakesink name=v sync=false"
    );
    let run = Run::new(&line, hooks(echo(Duration::from_millis(20))));
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let pad = run.pipeline.by_name("v").unwrap();
    let note = seen.clone();
    pad.static_pad("sink")
        .unwrap()
        .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            note.lock().unwrap().push(carried(info.buffer().unwrap()));
            gst::PadProbeReturn::Ok
        });
    let messages = run.finish();
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    (seen, messages)
}

/// What every buffer must carry, by the messages.
fn by_messages(messages: &Messages) -> Vec<Carried> {
    let span = |d: &&gst::Structure| -> (u64, u64, u64) {
        let get = |name| d.get::<u64>(name).unwrap();
        (
            get("window-id"),
            get("start-pts") / 1_000_000,
            get("end-pts") / 1_000_000,
        )
    };
    let spans: Vec<_> = messages.descriptions().iter().map(span).collect();
    (0..100)
        .map(|i| i * 100)
        .map(|ms| {
            let covers = spans.iter().filter(|(_, from, to)| (*from..*to).contains(&ms));
            (ms, covers.map(|(id, ..)| *id).collect())
        })
        .collect()
}

#[test]
fn every_buffer_of_a_file_has_the_descriptions_of_its_windows() {
    let (seen, messages) = file("");
    assert_eq!(seen, by_messages(&messages));
    assert!(seen.iter().all(|(_, ids)| ids.len() == 1));

    let (seen, messages) = file("window-stride=1000000000");
    assert_eq!(seen, by_messages(&messages));
    assert_eq!(seen[50], (5000, vec![2, 3, 4, 5]));
}

#[test]
fn buffers_wait_for_the_answer_and_go_untouched() {
    let backend = Manual::new();
    let mut bench = bench(&backend, false, &[TWO_SECONDS]);
    let first = Bench::buffer(0);
    let memory = first.peek_memory(0).as_ptr();
    bench.harness.push(first).unwrap();
    bench.frames(500..2000);
    let asked = backend.take();
    assert_eq!((bench.stat("held"), out(&mut bench)), (4 + 3, vec![]));
    asked.answer();
    wait_until("a buffer", || bench.harness.buffers_in_queue() == 4);
    let first = bench.harness.pull().unwrap();
    assert_eq!(carried(&first), (0, vec![0]));
    assert_eq!(first.peek_memory(0).as_ptr(), memory);
    assert_eq!(out(&mut bench), window(0, &[0])[1..]);
    assert_eq!((bench.stat("held"), bench.stat("copied")), (0, 0));
}
