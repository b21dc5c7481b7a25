//! A real RTSP server on the loopback serves the film; `rtspsrc … ! qwenvl` describes it, live.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::thread;

use common::media::{self, DESCRIBE, text};
use common::{Messages, Run, wait_until};
use gst::glib;
use gst::prelude::*;
use gst_rtsp_server::prelude::*;
use gstqwenvl::testing::Hooks;

/// Scenes to wait for; each takes its four seconds.
const SCENES: usize = 4;

#[test]
fn the_film_is_described_live_over_rtsp() {
    common::init();
    let server = Server::new();
    let line = format!(
        "rtspsrc protocols=tcp location={} ! decodebin ! qwenvl name=q prompt=\"{DESCRIBE}\" ! fakesink",
        server.url
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

    let truths = media::rows("film.json");
    let wanted: Vec<&str> = truths.iter().map(|row| text(row, "describe")).collect();
    // Streams begin at their first frame, so the windows are the scenes; what is being described
    // when the pipeline stops does not count.
    let got = messages.descriptions();
    for (s, wanted) in got.iter().zip(wanted).take(SCENES) {
        assert_eq!(s.get::<String>("text").unwrap(), wanted, "{messages:?}");
    }
}

/// A server in a thread of its own.
struct Server {
    url: String,
    main_loop: glib::MainLoop,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn new() -> Self {
        let context = glib::MainContext::new();
        let server = gst_rtsp_server::RTSPServer::new();
        server.set_address("127.0.0.1");
        server.set_service("0");
        let factory = gst_rtsp_server::RTSPMediaFactory::new();
        factory.set_launch(&format!(
            "( filesrc location=\"{}\" ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 )",
            media::path("film.mp4").display()
        ));
        let mounts = server.mount_points().unwrap();
        mounts.add_factory("/film", factory);
        server.attach(Some(&context)).unwrap();
        let url = format!("rtsp://127.0.0.1:{}/film", server.bound_port());
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let thread = thread::spawn({
            let main_loop = main_loop.clone();
            move || {
                let _server = server;
                let context = main_loop.context();
                context.with_thread_default(|| main_loop.run()).unwrap();
            }
        });
        Self {
            url,
            main_loop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.main_loop.quit();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}
