//! A `qwenvl` without a pipeline: the test is upstream and downstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gst::prelude::*;
use gst_check::Harness;
use gstqwenvl::testing::{self, Hooks, Stage};
use qwen3_vl_core::clip::clip;
use qwen3_vl_core::frames::Size;

use super::{Messages, in_time, wait_until};

pub const CAPS: &str = "video/x-raw,format=RGB,width=96,height=64,framerate=10/1";

pub struct Bench {
    pub harness: Harness,
    pub element: gst::Element,
    pub bus: gst::Bus,
    /// All messages of the bus so far.
    pub messages: Messages,
    worked: Arc<AtomicUsize>,
}

impl Bench {
    /// Not yet started.
    pub fn idle(hooks: Hooks) -> (gst::Element, gst::Bus, Arc<AtomicUsize>) {
        super::init();
        let element = gst::ElementFactory::make("qwenvl")
            .name("q")
            .build()
            .unwrap();
        let worked = Arc::new(AtomicUsize::new(0));
        let (count, at) = (worked.clone(), hooks.at.clone());
        let hooks = Hooks {
            at: Arc::new(move |stage| {
                if stage == Stage::Worker {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                at(stage);
            }),
            ..hooks
        };
        testing::set_hooks(&element, hooks);
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        (element, bus, worked)
    }

    /// Started, with caps and a segment.
    pub fn new(hooks: Hooks, live: bool, properties: &[(&str, &str)]) -> Self {
        let (element, bus, worked) = Self::idle(hooks);
        for (name, value) in properties {
            element.set_property_from_str(name, value);
        }
        let mut harness = Harness::with_element(&element, Some("sink"), Some("src"));
        harness.set_live(live);
        harness.set_src_caps_str(CAPS);
        Self {
            harness,
            element,
            bus,
            messages: Messages::default(),
            worked,
        }
    }

    /// Waits until the model is loaded.
    pub fn ready(mut self) -> Self {
        wait_until("loading", || {
            self.collect();
            self.messages.is_loaded()
        });
        self
    }

    /// A frame whose picture changes every half second.
    pub fn buffer(ms: u64) -> gst::Buffer {
        let size = Size {
            width: 96,
            height: 64,
        };
        let mut buffer = gst::Buffer::from_slice(clip((ms / 500) as u32, size, 0));
        let header = buffer.get_mut().unwrap();
        header.set_pts(gst::ClockTime::from_mseconds(ms));
        header.set_duration(gst::ClockTime::from_mseconds(100));
        buffer
    }

    /// Pushes a frame.
    pub fn push(&mut self, ms: u64) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.harness.push(Self::buffer(ms))
    }

    /// Pushes frames half a second apart, each of which is sampled, and waits for the worker.
    pub fn frames(&mut self, ms: std::ops::Range<u64>) {
        for ms in ms.step_by(500) {
            let before = self.worked.load(Ordering::SeqCst);
            self.push(ms).unwrap();
            let worked = self.worked.clone();
            wait_until("the worker", || worked.load(Ordering::SeqCst) > before);
        }
    }

    pub fn event(&mut self, event: gst::Event) -> bool {
        self.harness.push_event(event)
    }

    /// Pushes EOS in a thread of its own. The returned function waits for it.
    pub fn eos_in_thread(&self) -> impl FnOnce() -> bool + use<> {
        let pad = self.element.static_pad("sink").unwrap();
        let thread = std::thread::spawn(move || pad.send_event(gst::event::Eos::new()));
        move || in_time("EOS", move || thread.join().unwrap())
    }

    pub fn stat(&self, name: &str) -> u64 {
        let stats: gst::Structure = self.element.property("stats");
        stats.get(name).unwrap()
    }

    pub fn collect(&mut self) {
        self.messages.take_from(&self.bus, &self.element);
    }

    /// Waits until `count` windows have ended.
    pub fn ended(&mut self, count: usize) {
        wait_until("the end of a window", || {
            self.collect();
            self.messages.ids().len() >= count
        });
    }

    pub fn stop(&mut self) {
        let element = self.element.clone();
        in_time("stopping", move || element.set_state(gst::State::Null)).unwrap();
        self.collect();
    }
}
