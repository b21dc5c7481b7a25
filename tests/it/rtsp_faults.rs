//! A camera that fails, against a real RTSP server on the loopback: windows go on after it, and
//! each ends in one message.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gst::prelude::*;

use crate::common::rtsp::{Packets, Server, on_the_way};
use crate::common::{self, Messages, Run, echo, hooks, wait_until};

/// A pipeline that describes the camera.
struct Viewer {
    run: Run,
    bus: gst::Bus,
    messages: Messages,
    /// Streams that have ended.
    ends: Arc<AtomicUsize>,
}

impl Viewer {
    /// With windows of a second, and no source yet.
    fn new() -> Self {
        let line = "qwenvl name=q window-duration=1000000000 ! fakesink async=false";
        let run = Run::new(line, hooks(echo(Duration::ZERO)));
        // What the element says while it stops is of interest here.
        run.pipeline.set_auto_flush_bus(false);
        let ends = Arc::<AtomicUsize>::default();
        let ended = ends.clone();
        let pad = run.element.static_pad("src").unwrap();
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            if info.event().unwrap().type_() == gst::EventType::Eos {
                ended.fetch_add(1, Ordering::SeqCst);
                // A sink takes nothing more after it.
                return gst::PadProbeReturn::Drop;
            }
            gst::PadProbeReturn::Ok
        });
        Self {
            bus: run.pipeline.bus().unwrap(),
            run,
            messages: Messages::default(),
            ends,
        }
    }

    /// Puts a source in front of `qwenvl`. Its `rtspsrc` goes through `setup`.
    fn plug_in(
        &self,
        url: &str,
        setup: impl Fn(&gst::Element) + Send + Sync + 'static,
    ) -> gst::Element {
        let source = gst::ElementFactory::make("uridecodebin")
            .property("uri", url)
            .build()
            .unwrap();
        source.connect("source-setup", false, move |values| {
            let rtspsrc: gst::Element = values[1].get().unwrap();
            rtspsrc.set_property("latency", 100u32);
            setup(&rtspsrc);
            None
        });
        let sink = self.run.element.static_pad("sink").unwrap();
        source.connect_pad_added(move |_, pad| {
            pad.link(&sink).unwrap();
        });
        self.run.pipeline.add(&source).unwrap();
        source.sync_state_with_parent().unwrap();
        source
    }

    /// Watches by TCP.
    fn of(server: &Server, setup: impl Fn(&gst::Element) + Send + Sync + 'static) -> Self {
        let viewer = Self::new();
        viewer.plug_in(&server.url("rtspt"), setup);
        viewer.play();
        viewer
    }

    fn play(&self) {
        self.run.set_state(gst::State::Playing).unwrap();
    }

    fn collect(&mut self) {
        self.messages.take_from(&self.bus, &self.run.element);
        assert!(self.messages.errors.is_empty(), "{:?}", self.messages);
    }

    /// Waits for `count` further descriptions, and returns them.
    fn described(&mut self, count: usize) -> Vec<gst::Structure> {
        self.collect();
        let before = self.messages.descriptions().len();
        wait_until("descriptions", || {
            self.collect();
            self.messages.descriptions().len() >= before + count
        });
        let all = self.messages.descriptions();
        all[before..].iter().map(|&s| s.clone()).collect()
    }

    fn wait_for_end(&self) {
        wait_until("the end of the stream", || {
            self.ends.load(Ordering::SeqCst) > 0
        });
    }

    /// Stops. Every window has ended in one message.
    fn stop(mut self) {
        self.run.set_state(gst::State::Null).unwrap();
        self.collect();
        let ids = self.messages.ids();
        let all: Vec<u64> = (0..ids.len() as u64).collect();
        assert_eq!(ids, all, "{:?}", self.messages);
    }
}

/// The application puts another source in front of `qwenvl`, which goes on.
#[test]
fn a_camera_comes_back_behind_another_source() {
    let server = Server::camera(0);
    let mut viewer = Viewer::new();
    let source = viewer.plug_in(&server.url("rtspt"), |_| ());
    viewer.play();
    viewer.described(2);
    let port = server.port;
    drop(server);
    viewer.wait_for_end();
    source.set_state(gst::State::Null).unwrap();
    viewer.run.pipeline.remove(&source).unwrap();

    let server = Server::camera(port);
    viewer.plug_in(&server.url("rtspt"), |_| ());
    viewer.described(2);
    viewer.stop();
}

/// The application takes the pipeline down to READY and up again.
#[test]
fn a_camera_comes_back_to_a_pipeline_that_was_ready() {
    let server = Server::camera(0);
    let mut viewer = Viewer::of(&server, |_| ());
    viewer.described(2);
    let port = server.port;
    drop(server);
    viewer.wait_for_end();
    viewer.run.set_state(gst::State::Ready).unwrap();

    let _server = Server::camera(port);
    viewer.play();
    viewer.described(2);
    viewer.stop();
}

/// Longer than a window lasts.
#[test]
fn a_camera_is_silent_for_a_while() {
    let server = Server::camera(0);
    let mut viewer = Viewer::of(&server, |_| ());
    let end = |s: &gst::Structure| s.get::<u64>("end-running-time").unwrap();
    let before = end(&viewer.described(2)[1]);
    server.set_silent(true);
    std::thread::sleep(Duration::from_secs(3));
    server.set_silent(false);
    wait_until("a window after it", || {
        end(&viewer.described(1)[0]) > before + 3_000_000_000
    });
    viewer.stop();
}

#[test]
fn a_camera_changes_its_resolution() {
    let server = Server::camera(0);
    let mut viewer = Viewer::of(&server, |_| ());
    viewer.described(2);
    for (width, height) in [(192, 128), (96, 64)] {
        server.set_size(width, height);
        let size = format!("inputs of {width}x{height}");
        wait_until("a window of the new size", || {
            let texts = viewer.described(1);
            texts[0].get::<String>("text").unwrap().contains(&size)
        });
    }
    viewer.stop();
}

/// One packet in four is lost, and with it its picture, and sometimes those that refer to that.
#[test]
fn packets_are_lost() {
    let server = Server::camera(0);
    let (seen, lost) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (see, lose) = (seen.clone(), lost.clone());
    let mut viewer = Viewer::new();
    viewer.plug_in(&server.url("rtspu"), move |rtspsrc| {
        let (see, lose) = (see.clone(), lose.clone());
        let mut random = 1u32;
        on_the_way(rtspsrc, Packets::Rtp, move |_| {
            // A linear congruential generator: the same packets in every run.
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let arrives = random >> 30 > 0;
            see.fetch_add(1, Ordering::SeqCst);
            lose.fetch_add(usize::from(!arrives), Ordering::SeqCst);
            arrives
        });
    });
    viewer.play();
    viewer.described(4);
    let (seen, lost) = (seen.load(Ordering::SeqCst), lost.load(Ordering::SeqCst));
    assert!(lost > 0 && lost < seen, "{lost} of {seen} packets");
    viewer.stop();
}

/// Nanoseconds since 1970 by the clock of this machine.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_nanos().try_into().unwrap()
}

/// Blocks reports until `open` is set, and sets the camera's clock `ahead` by this many seconds.
fn reports(rtspsrc: &gst::Element, open: Arc<AtomicBool>, ahead: u32) {
    on_the_way(rtspsrc, Packets::Rtcp, move |packet| {
        const SENDER_REPORT: u8 = 200;
        let mut packet = packet.map_writable().unwrap();
        if packet[1] == SENDER_REPORT {
            let seconds = u32::from_be_bytes(packet[8..12].try_into().unwrap());
            packet[8..12].copy_from_slice(&seconds.wrapping_add(ahead).to_be_bytes());
        }
        open.load(Ordering::SeqCst)
    });
}

const REFERENCE: &str = "add-reference-timestamp-meta";

/// The camera's time comes with the first report, and differs from this machine's.
#[test]
fn windows_know_the_time_of_the_camera_once_it_says() {
    common::init();
    let rtspsrc = gst::ElementFactory::make("rtspsrc").build().unwrap();
    if !rtspsrc.has_property(REFERENCE) {
        return; // GStreamer 1.20
    }
    const AHEAD: u32 = 86_400;
    const SECOND: u64 = 1_000_000_000;
    let server = Server::camera(0);
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let before = now();
    let mut viewer = Viewer::of(&server, move |rtspsrc| {
        rtspsrc.set_property(REFERENCE, true);
        reports(rtspsrc, gate.clone(), AHEAD);
    });
    for description in viewer.described(2) {
        assert!(!description.has_field("utc"), "{description}");
    }
    open.store(true, Ordering::SeqCst);
    wait_until("a window with the time", || {
        viewer.described(1)[0].has_field("utc")
    });
    let times: Vec<u64> = viewer
        .described(2)
        .iter()
        .map(|description| description.get("utc").unwrap())
        .collect();
    let after = now();
    assert!(times[0] < times[1], "{times:?}");
    for time in times {
        // A second of tolerance on both sides, in case this machine's clock is set meanwhile.
        let time = time - u64::from(AHEAD) * SECOND;
        assert!(before - SECOND < time && time < after + SECOND, "{time}");
    }
    viewer.stop();
}

/// With `ntp-sync` the first report moves the running time, here by five seconds.
#[test]
fn the_first_report_moves_the_time() {
    let server = Server::camera(0);
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let mut viewer = Viewer::of(&server, move |rtspsrc| {
        rtspsrc.set_property("ntp-sync", true);
        reports(rtspsrc, gate.clone(), 5);
    });
    let still = viewer.described(2);
    open.store(true, Ordering::SeqCst);
    let start = |s: &gst::Structure| s.get::<u64>("start-running-time").unwrap();
    let jump = start(&still[1]) + 4_000_000_000;
    wait_until("the jump", || start(&viewer.described(1)[0]) > jump);
    viewer.described(2);
    viewer.stop();
}
