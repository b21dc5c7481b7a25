//! Descriptions go to another process through `unixfdsink` and `unixfdsrc`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::{env, fs, io};

use gst::prelude::*;
use gstqwenvl::meta;
use qwen3_vl_core::backend::manual::ManualBackend;

use crate::common::{self, Messages, Run, hooks, wait_until};

const SELF: &str = "unixfd::several_descriptions_on_one_buffer";
/// The folder that the sender and the receiver share; set for the sender.
const FOLDER: &str = "QWENVL_TEST_UNIXFD";
/// Texts with characters that are special to GStreamer's syntax.
const TEXTS: [&str; 2] = [
    "A \"red\" car; x=1, {y} [z] <b> & 'c' \\ \\n\n\t(string)done, \u{fc}ber \u{1f697}",
    "",
];

#[test]
fn several_descriptions_on_one_buffer() {
    if let Some(folder) = env::var_os(FOLDER) {
        return send(Path::new(&folder));
    }
    common::init();
    let folder = tempfile::tempdir().unwrap();
    let _sender = Sender::start(folder.path());
    let socket = folder.path().join("socket");
    wait_until("the sender", || socket.exists());

    let line = format!(
        "unixfdsrc socket-path={} ! appsink name=s sync=false",
        socket.display()
    );
    let pipeline = gst::parse::launch(&line).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("s").unwrap();
    let sink = sink.downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    for _ in 0..4 {
        assert!(meta::descriptions(&pull(&sink)).is_empty());
    }
    let received = meta::descriptions(&pull(&sink));
    pipeline.set_state(gst::State::Null).unwrap();

    let texts: Vec<String> = received.iter().map(|s| s.get("text").unwrap()).collect();
    assert_eq!(texts, TEXTS);
    // And every other field.
    let received: Vec<String> = received.iter().map(ToString::to_string).collect();
    let sent = fs::read_to_string(folder.path().join("sent")).unwrap();
    assert_eq!(received.join("\n"), sent);
}

fn pull(sink: &gst_app::AppSink) -> gst::Buffer {
    let sample = sink.try_pull_sample(gst::ClockTime::from_seconds(60));
    sample.unwrap().buffer_owned().unwrap()
}

/// This test again, in another process.
struct Sender(Child);

impl Sender {
    fn start(folder: &Path) -> Self {
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", SELF, "--nocapture"])
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // It ends when its standard input is closed.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn send(folder: &Path) {
    let backend = ManualBackend::default();
    let socket = folder.join("socket");
    // The sink takes nothing but its own memory, which the converter gets by a query through `q`.
    let line = format!(
        "appsrc name=in format=time caps={} ! videoconvert ! video/x-raw,format=BGR ! \
         qwenvl name=q window-duration=1000000000 min-frames=2 ! \
         unixfdsink socket-path={} wait-for-connection=true sync=false",
        common::bench::CAPS,
        socket.display()
    );
    let run = Run::new(&line, hooks(Arc::new(backend.clone())));
    let source = run.pipeline.by_name("in").unwrap();
    let source = source.downcast::<gst_app::AppSrc>().unwrap();
    run.set_state(gst::State::Playing).unwrap();
    let push = |ms| {
        let buffer = common::bench::Bench::buffer(ms);
        source.push_buffer(buffer).unwrap();
    };
    [0, 500, 1_000, 1_500].into_iter().for_each(push);
    for text in TEXTS {
        backend.take().answer_with(text.into());
    }
    let bus = run.pipeline.bus().unwrap();
    let mut messages = Messages::default();
    wait_until("two descriptions", || {
        messages.take_from(&bus, &run.element);
        messages.descriptions().len() == TEXTS.len()
    });
    let sent = messages.descriptions();
    let sent: Vec<String> = sent.iter().map(ToString::to_string).collect();
    fs::write(folder.join("sent"), sent.join("\n")).unwrap();
    push(2_000);
    // Until the receiver has what it wants, or is gone.
    io::read_to_string(io::stdin()).unwrap();
}
