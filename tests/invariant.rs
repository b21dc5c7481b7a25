//! Whatever happens to a stream in whatever order: every window ends in exactly one message, no
//! answer outlives its flush, every frame passes as it is, and nothing is held at the end.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::sync::Arc;

use common::camera::{BUFFERS, Camera, Done};
use common::manual::Manual;
use common::{Messages, bench::Bench, hooks, in_time, wait_until};
use gst::prelude::*;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use qwen3_vl::backend::{Event, Failure};

/// What happens next. Frames and events queue up in the streaming thread; the rest is done at once,
/// by whoever it may be in an application.
#[derive(Clone, Debug)]
enum Op {
    /// That many frames, so many milliseconds apart.
    Frames(u64, u64),
    /// PTS jump by so many milliseconds.
    Jump(i64),
    Gap,
    /// A new segment, with its base in seconds.
    Segment(u64),
    /// The other format.
    Caps,
    Property(&'static str, &'static str),
    /// The oldest request is answered.
    Answer,
    /// The oldest request is impossible.
    Refuse,
    /// The backend gives the oldest request up.
    GiveUp,
    /// The backend breaks.
    Break,
    /// A seek: flush and a new segment.
    Seek,
    /// The stream ends; something else may follow at once.
    Eos,
    /// Down to this state and up again.
    Restart(gst::State),
    /// Nothing, until the streaming thread has done everything.
    Settle,
}

fn any_op() -> impl Strategy<Value = Op> {
    let property = prop::sample::select(vec![
        ("window-duration", "1000000000"),
        ("window-duration", "2000000000"),
        ("window-stride", "0"),
        ("window-stride", "500000000"),
        ("fps", "2/1"),
        ("fps", "5/1"),
        // Makes no sense: a warning, and the last good one stays.
        ("fps", "0/1"),
        ("mode", "images"),
        ("mode", "video"),
        ("emit-tokens", "true"),
        ("max-pending", "0"),
        ("max-pending", "2"),
        ("overload", "auto"),
        ("overload", "block"),
        ("overload", "drop-oldest"),
        ("overload", "drop-newest"),
    ]);
    let step = prop::sample::select(vec![40, 100, 500, 1_300]);
    prop_oneof![
        12 => (1u64..12, step).prop_map(|(count, step)| Op::Frames(count, step)),
        1 => (-20_000i64..20_000).prop_map(Op::Jump),
        1 => Just(Op::Gap),
        1 => (0u64..100).prop_map(Op::Segment),
        1 => Just(Op::Caps),
        4 => property.prop_map(|(name, value)| Op::Property(name, value)),
        6 => Just(Op::Answer),
        1 => Just(Op::Refuse),
        1 => Just(Op::GiveUp),
        1 => Just(Op::Break),
        2 => Just(Op::Seek),
        1 => Just(Op::Eos),
        1 => prop::sample::select(vec![gst::State::Ready, gst::State::Null]).prop_map(Op::Restart),
        3 => Just(Op::Settle),
    ]
}

/// One element's life.
struct Life {
    element: gst::Element,
    bus: gst::Bus,
    camera: Camera,
    backend: Manual,
    /// Where the stream is, in milliseconds.
    now: u64,
    caps: usize,
    /// Raised by seeks and restarts; the prompt says in which one a window has opened.
    epoch: u64,
    /// Number of the next answer, which is its text.
    answers: u64,
    /// Answers that must not come out.
    too_late: HashSet<u64>,
    /// Buffers that had come out when an epoch began.
    shown: Vec<usize>,
    /// Times that the backend broke.
    broken: usize,
    /// Since the last restart.
    may_fail: bool,
}

impl Life {
    fn new(live: bool) -> Self {
        let backend = Manual::new();
        let (element, bus, _) = Bench::idle(hooks(Arc::new(backend.clone())));
        element.set_property("window-duration", 1_000_000_000u64);
        element.set_property("prompt", "0");
        element.set_state(gst::State::Playing).unwrap();
        let mut camera = Camera::new(&element, live);
        camera.start(0);
        Self {
            element,
            bus,
            camera,
            backend,
            now: 0,
            caps: 0,
            epoch: 0,
            answers: 0,
            too_late: HashSet::new(),
            shown: vec![0],
            broken: 0,
            may_fail: false,
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Frames(count, step) => {
                for _ in 0..count {
                    self.camera.frame(self.now);
                    self.now += step;
                }
            }
            Op::Jump(by) => self.now = self.now.saturating_add_signed(by),
            Op::Gap => {
                let at = gst::ClockTime::from_mseconds(self.now);
                self.camera.event(gst::event::Gap::builder(at).build());
            }
            Op::Segment(base) => {
                let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
                segment.set_base(gst::ClockTime::from_seconds(base));
                self.camera.event(gst::event::Segment::new(&segment));
            }
            Op::Caps => {
                self.caps = 1 - self.caps;
                let caps = common::camera::CAPS[self.caps].parse().unwrap();
                self.camera.event(gst::event::Caps::new(&caps));
            }
            Op::Property(name, value) => self.element.set_property_from_str(name, value),
            Op::Answer => self.answer(),
            Op::Refuse => self.end(Event::Failed(Failure::Request("impossible".into()))),
            Op::GiveUp => self.end(Event::Cancelled),
            Op::Break => {
                if let Some(asked) = self.backend.try_take() {
                    self.broken += 1;
                    self.may_fail = true;
                    asked.end(Event::Failed(Failure::Backend("broken".into())));
                }
            }
            Op::Seek => self.seek(),
            Op::Eos => {
                self.camera.event(gst::event::Eos::new());
                self.camera.start(self.caps);
            }
            Op::Restart(state) => self.restart(state),
            Op::Settle => self.settle(),
        }
    }

    fn end(&self, event: Event) {
        if let Some(asked) = self.backend.try_take() {
            asked.end(event);
        }
    }

    fn answer(&mut self) {
        let Some(mut asked) = self.backend.try_take() else {
            return;
        };
        if asked.question.prompt != self.epoch.to_string() {
            self.too_late.insert(self.answers);
        }
        asked.token("a piece");
        asked.answer_with(self.answers.to_string());
        self.answers += 1;
    }

    /// Waits for the streaming thread, with an engine that answers as long as it does not get on.
    fn settle(&mut self) {
        while !self.camera.is_done() {
            if !self.camera.wait() {
                self.answer();
            }
        }
        self.check_results(false);
    }

    fn check_results(&mut self, flushed: bool) {
        for done in self.camera.take_results() {
            let Done::Flow(Err(error)) = done else {
                continue;
            };
            let expected = match error {
                gst::FlowError::Error => self.may_fail,
                gst::FlowError::Flushing => flushed,
                // Caps that a flush lets nobody take.
                gst::FlowError::NotNegotiated => flushed,
                _ => false,
            };
            assert!(expected, "{error:?}");
        }
    }

    /// What is under way belongs to the past.
    fn next_epoch(&mut self) {
        self.epoch += 1;
        self.element.set_property("prompt", self.epoch.to_string());
        // Nothing else wakes a streaming thread that waits.
        self.camera.wait_all();
        self.check_results(true);
        self.shown.push(self.camera.shown.lock().unwrap().len());
        wait_until("the buffers", || self.camera.in_pool() == BUFFERS as usize);
    }

    fn seek(&mut self) {
        self.camera.event_now(gst::event::FlushStart::new());
        self.next_epoch();
        // Now, too: a seek ends before the next one begins.
        self.camera.event_now(gst::event::FlushStop::new(true));
        self.camera.start(self.caps);
    }

    fn restart(&mut self, down: gst::State) {
        self.set_state(down);
        self.next_epoch();
        self.may_fail = false;
        self.camera.restart();
        self.element.set_property("fps", gst::Fraction::new(2, 1));
        self.set_state(gst::State::Playing);
        self.camera.start(self.caps);
    }

    fn set_state(&self, state: gst::State) {
        let element = self.element.clone();
        in_time("a state change", move || element.set_state(state)).unwrap();
    }

    fn stat(&self, name: &str) -> u64 {
        let stats: gst::Structure = self.element.property("stats");
        stats.get(name).unwrap()
    }

    /// Ends the stream one way or the other, and the element, and looks back.
    fn check(mut self, end: Op) {
        let runs_on = matches!(end, Op::Eos | Op::Seek);
        self.step(end);
        self.settle();
        if runs_on && !self.may_fail {
            wait_until("the last windows", || self.stat("outstanding") == 0);
        }
        wait_until("the buffers", || self.camera.in_pool() == BUFFERS as usize);
        // One more window says how many there were before it.
        self.restart(gst::State::Null);
        self.camera.frame(self.now);
        self.settle();
        wait_until("one more window", || self.stat("outstanding") == 1);
        self.set_state(gst::State::Null);

        let mut messages = Messages::default();
        messages.take_from(&self.bus, &self.element);
        self.look_at(&messages);

        let weak = self.element.downgrade();
        let Self {
            element,
            bus,
            camera,
            backend,
            ..
        } = self;
        drop((element, bus, camera, messages));
        wait_until("the end of the element", || weak.upgrade().is_none());
        drop(backend);
    }

    fn look_at(&self, messages: &Messages) {
        // Counted without a hole, each once.
        let ids = messages.ids();
        let all: Vec<u64> = (0..ids.len() as u64).collect();
        assert_eq!(ids, all);
        let ends = messages
            .structures
            .iter()
            .filter(|s| s.name() != "qwenvl/token");
        let mut requests: Vec<u64> = ends.clone().map(|s| s.get("request-id").unwrap()).collect();
        requests.sort_unstable();
        assert_eq!(requests, all);

        for window in ends {
            let time = |name: &str| window.get::<u64>(name).unwrap();
            assert!(time("start-running-time") <= time("end-running-time"));
            let frames: gst::Array = window.get("frame-pts").unwrap();
            let frames: Vec<u64> = frames.iter().map(|pts| pts.get().unwrap()).collect();
            assert!(frames.is_sorted_by(|a, b| a < b), "{window}");
        }

        // In the order of the answers, and only those that came in time.
        let texts = |all: &[&gst::Structure]| -> Vec<u64> {
            let text = |s: &&gst::Structure| s.get::<String>("text").unwrap().parse().unwrap();
            all.iter().map(text).collect()
        };
        let descriptions = texts(&messages.descriptions());
        assert!(descriptions.is_sorted_by(|a, b| a < b), "{descriptions:?}");
        let in_time = |text: &u64| !self.too_late.contains(text);
        assert!(descriptions.iter().all(in_time), "{descriptions:?}");
        assert!(messages.errors.len() <= self.broken, "{messages:?}");

        // Every frame came out, in the same memory, and no description of an older epoch on it.
        let taken = self.camera.taken.lock().unwrap();
        assert_eq!(self.camera.shown_frames(), *taken);
        let shown = self.camera.shown.lock().unwrap();
        let mut attached = Vec::new();
        for (i, buffer) in shown.iter().enumerate() {
            let epoch = self.shown.iter().rposition(|start| *start <= i).unwrap();
            for description in &buffer.descriptions {
                assert_eq!(description.get::<String>("prompt"), Ok(epoch.to_string()));
                attached.extend(texts(&[description]));
            }
        }
        assert!(attached.is_sorted_by(|a, b| a < b), "{attached:?}");
        assert!(attached.iter().all(|text| descriptions.contains(text)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        rng_seed: RngSeed::Fixed(3),
        failure_persistence: None,
        max_shrink_time: 30_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_window_ends_once(
        live in any::<bool>(),
        ops in prop::collection::vec(any_op(), 1..60),
        end in prop::sample::select(vec![Op::Eos, Op::Seek, Op::Restart(gst::State::Ready)]),
    ) {
        let mut life = Life::new(live);
        for op in ops {
            life.step(op);
        }
        life.check(end);
    }
}
