//! A real RTSP server on the loopback serves the film; `rtspsrc … ! qwenvl` describes it, live.

use gst::prelude::*;
use gstqwenvl::testing::Hooks;

use crate::common::demo::DESCRIBE;
use crate::common::media::{self, text};
use crate::common::rtsp::Server;
use crate::common::{self, Messages, Run, wait_until};

/// Scenes to wait for; each takes its four seconds.
const SCENES: usize = 4;

#[test]
fn the_film_is_described_live_over_rtsp() {
    common::init();
    // The engine is there when the camera begins, as with a second camera: the windows are the
    // scenes.
    let other = Run::new("videotestsrc ! qwenvl name=q ! fakesink", Hooks::default());
    other.set_state(gst::State::Paused).unwrap();
    let mut loading = Messages::default();
    wait_until("the model", || {
        loading.take_from(&other.pipeline.bus().unwrap(), &other.element);
        loading.is_loaded()
    });
    let server = Server::film();
    let line = format!(
        "rtspsrc protocols=tcp location={} ! decodebin ! \
         qwenvl name=q prompt=\"{DESCRIBE}\" ! fakesink",
        server.url("rtsp")
    );
    let run = Run::new(&line, Hooks::default());
    run.set_state(gst::State::Playing).unwrap();
    let bus = run.pipeline.bus().unwrap();
    let mut messages = Messages::default();
    wait_until("four scenes", || {
        messages.take_from(&bus, &run.element);
        assert!(messages.errors.is_empty(), "{messages:?}");
        messages.descriptions().len() >= SCENES
    });
    run.set_state(gst::State::Null).unwrap();
    other.set_state(gst::State::Null).unwrap();

    let truths = media::rows("film.json");
    let wanted: Vec<&str> = truths.iter().map(|row| text(row, "describe")).collect();
    // What is being described when the pipeline stops does not count.
    let got = messages.descriptions();
    for (s, wanted) in got.iter().zip(wanted).take(SCENES) {
        assert_eq!(s.get::<String>("text").unwrap(), wanted, "{messages:?}");
    }
}
