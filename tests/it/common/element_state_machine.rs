//! One element, on which any operations run in any order, and its invariants: every window ends in
//! exactly one terminal message, no answer comes after its flush, every frame passes unchanged, and
//! nothing is held at the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use proptest::prelude::*;
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;

use super::camera::{BUFFERS, CAPS, Camera, Done};
use super::message_checker::MessageChecker;
use super::{bench::Bench, hooks, in_time, wait_until};
use gstqwenvl::testing::Hooks;
use qwen3_vl_core::backend::manual::{Asked, ManualBackend};

/// An operation. Frames and events are queued for the streaming thread; the others run at once in
/// the calling thread, as in an application.
#[derive(Clone, Debug)]
pub enum Op {
    /// This many frames, at this distance in milliseconds.
    Frames(u64, u64),
    /// PTS jump by this many milliseconds.
    Jump(i64),
    Gap,
    /// A new segment, with its base in seconds.
    Segment(u64),
    /// The other format.
    Caps,
    Property(&'static str, &'static str),
    /// An invalid property: a WARNING, and the last valid settings stay.
    Nonsense,
    /// The text pad is requested, or released if it is there.
    Text,
    /// Downstream keeps the next buffer for this many milliseconds.
    Slow(u64),
    /// The oldest request is answered.
    Answer,
    /// The newest one is.
    AnswerNewest,
    /// The oldest request is impossible.
    Refuse,
    /// The backend drops the oldest request.
    GiveUp,
    /// The backend breaks.
    Break,
    /// A seek: flush and a new segment.
    Seek,
    /// EOS; another operation may follow at once.
    Eos,
    /// Down to this state and up again.
    Restart(gst::State),
    /// Waits until the streaming thread has done all steps.
    Settle,
}

/// Any operation. Downstream keeps no buffer longer than `slow` milliseconds.
pub fn any_op(slow: u64) -> impl Strategy<Value = Op> {
    let property = prop::sample::select(vec![
        ("window-duration", "1000000000"),
        ("window-duration", "2000000000"),
        ("window-stride", "0"),
        ("window-stride", "500000000"),
        ("fps", "2/1"),
        ("fps", "5/1"),
        ("mode", "images"),
        ("mode", "video"),
        ("emit-tokens", "true"),
        ("max-pending", "0"),
        ("max-pending", "2"),
        ("overload", "auto"),
        ("overload", "block"),
        ("overload", "drop-oldest"),
        ("overload", "drop-newest"),
        ("text-timing", "answer"),
        ("text-timing", "span"),
    ]);
    let step = prop::sample::select(vec![40, 100, 500, 1_300]);
    prop_oneof![
        12 => (1u64..12, step).prop_map(|(count, step)| Op::Frames(count, step)),
        1 => (-20_000i64..20_000).prop_map(Op::Jump),
        1 => Just(Op::Gap),
        1 => (0u64..100).prop_map(Op::Segment),
        1 => Just(Op::Caps),
        4 => property.prop_map(|(name, value)| Op::Property(name, value)),
        1 => Just(Op::Nonsense),
        1 => Just(Op::Text),
        1 => (0..=slow).prop_map(Op::Slow),
        6 => Just(Op::Answer),
        2 => Just(Op::AnswerNewest),
        1 => Just(Op::Refuse),
        1 => Just(Op::GiveUp),
        1 => Just(Op::Break),
        2 => Just(Op::Seek),
        1 => Just(Op::Eos),
        1 => prop::sample::select(vec![gst::State::Ready, gst::State::Null]).prop_map(Op::Restart),
        3 => Just(Op::Settle),
    ]
}

/// The conditions of a run, which do not change in it.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    pub live: bool,
    /// Whether it runs the demo model, whose answers the test does not choose.
    pub demo: bool,
    /// `attach=window`.
    pub holds: bool,
    /// Whether frames come by the clock, as from a camera.
    pub paced: bool,
}

impl Conditions {
    /// With an engine whose answers the test gives, and frames at once.
    pub fn new(live: bool) -> Self {
        Self {
            live,
            demo: false,
            holds: false,
            paced: false,
        }
    }
}

/// Warnings of GLib and GStreamer.
static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note_complaints() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        glib::log_set_default_handler(|domain, level, text| {
            glib::log_default_handler(domain, level, Some(text));
            if matches!(level, glib::LogLevel::Warning | glib::LogLevel::Critical) {
                COMPLAINTS.lock().unwrap().push(text.into());
            }
        });
    });
}

pub struct ElementStateMachine {
    conditions: Conditions,
    element: gst::Element,
    bus: gst::Bus,
    camera: Camera,
    backend: ManualBackend,
    pub checker: MessageChecker,
    /// The element's text pad and its peer.
    text: Option<(gst::Pad, gst::Pad)>,
    /// Milliseconds for which the peer keeps the next text.
    slow: Arc<AtomicU64>,
    /// Position of the stream, in milliseconds.
    now: u64,
    /// The next frame has the DISCONT flag.
    discont: bool,
    caps: usize,
    /// Raised by seeks and restarts. `stream-id` and `prompt` carry the epoch of a window.
    epoch: u64,
    /// Number of breakdowns of the backend.
    broken: usize,
    /// Since the last restart.
    may_fail: bool,
}

impl ElementStateMachine {
    pub fn new(conditions: Conditions) -> Self {
        note_complaints();
        let backend = ManualBackend::default();
        let hooks = if conditions.demo {
            Hooks::default()
        } else {
            hooks(Arc::new(backend.clone()))
        };
        let (element, bus, _) = Bench::idle(hooks);
        let checker = MessageChecker::new(&bus, &element);
        element.set_property("window-duration", 1_000_000_000u64);
        element.set_property("max-tokens", 24u32);
        if conditions.holds {
            element.set_property_from_str("attach", "window");
            element.set_property("attach-timeout", 500_000_000u64);
        }
        let mut machine = Self {
            conditions,
            camera: Camera::new(&element, conditions.live),
            element,
            bus,
            backend,
            checker,
            text: None,
            slow: Arc::default(),
            now: 0,
            discont: false,
            caps: 0,
            epoch: 0,
            broken: 0,
            may_fail: false,
        };
        machine.set_epoch(0);
        machine.set_state(gst::State::Playing);
        machine.camera.start(0);
        machine
    }

    pub fn step(&mut self, op: Op) {
        match op {
            Op::Frames(count, step) => self.frames(count, step),
            Op::Jump(by) => {
                self.now = self.now.saturating_add_signed(by);
                self.discont = true;
            }
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
                let caps = CAPS[self.caps].parse().unwrap();
                self.camera.event(gst::event::Caps::new(&caps));
            }
            Op::Property(name, value) => self.element.set_property_from_str(name, value),
            Op::Nonsense => {
                // The new stream-id holds from the next frame on, so push one first.
                self.frames(1, 40);
                self.settle();
                self.element.set_property("fps", gst::Fraction::new(0, 1));
            }
            Op::Text => self.toggle_text(),
            Op::Slow(time) => {
                self.camera.slow.store(time, Ordering::Relaxed);
                self.slow.store(time, Ordering::Relaxed);
            }
            Op::Answer => answer(self.backend.try_take()),
            Op::AnswerNewest => answer(self.backend.try_take_newest()),
            Op::Refuse => self.end(Event::Failed(Failure::Invalid("impossible".into()))),
            Op::GiveUp => self.end(Event::Cancelled),
            Op::Break => {
                if let Some(asked) = self.backend.try_take() {
                    self.broken += 1;
                    self.may_fail = true;
                    asked.end(Event::Failed(Failure::Fatal("broken".into())));
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

    fn frames(&mut self, count: u64, step: u64) {
        for _ in 0..count {
            let discont = std::mem::take(&mut self.discont);
            self.camera.frame_after(self.now, discont);
            self.now += step;
            if self.conditions.paced {
                thread::sleep(Duration::from_millis(step.min(100)));
            }
        }
    }

    fn toggle_text(&mut self) {
        if let Some((text, reader)) = self.text.take() {
            let _ = text.unlink(&reader);
            self.element.release_request_pad(&text);
            reader.set_active(false).unwrap();
            return;
        }
        let (checker, slow) = (self.checker.clone(), self.slow.clone());
        let reader = gst::Pad::builder(gst::PadDirection::Sink)
            .chain_function(move |_, _, buffer| {
                thread::sleep(Duration::from_millis(slow.swap(0, Ordering::Relaxed)));
                checker.text(&String::from_utf8_lossy(&buffer.map_readable().unwrap()));
                Ok(gst::FlowSuccess::Ok)
            })
            .build();
        reader.set_active(true).unwrap();
        let text = self.element.request_pad_simple("text").unwrap();
        text.link(&reader).unwrap();
        self.text = Some((text, reader));
    }

    fn end(&self, event: Event) {
        if let Some(asked) = self.backend.try_take() {
            asked.end(event);
        }
    }

    /// Waits for the streaming thread; the engine answers while that does not go on.
    pub fn settle(&mut self) {
        while !self.camera.is_done() {
            if !self.camera.wait() {
                answer(self.backend.try_take());
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
                // Also when a sticky event meets a pad that is flushing or inactive already.
                gst::FlowError::Error => self.may_fail || flushed,
                gst::FlowError::Flushing => flushed,
                // Caps that were flushed away.
                gst::FlowError::NotNegotiated => flushed,
                _ => false,
            };
            assert!(expected, "{error:?}");
        }
        // Held frames come later, as copies if they are of a bounded pool; several carry a
        // description.
        let held = self.conditions.holds;
        for description in self.camera.check_shown(held, flushed) {
            self.checker.attached(&description, held);
        }
        self.checker.check();
        assert_eq!(COMPLAINTS.lock().unwrap()[..], [""; 0]);
    }

    fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.element.set_property("fps", gst::Fraction::new(2, 1));
        self.element.set_property("stream-id", epoch.to_string());
        if !self.conditions.demo {
            self.element.set_property("prompt", epoch.to_string());
        }
    }

    /// Begins another epoch: answers of the one before must not come any more.
    fn next_epoch(&mut self) {
        self.set_epoch(self.epoch + 1);
        // The restart alone must wake a waiting streaming thread.
        self.camera.wait_all();
        self.check_results(true);
        wait_until("the buffers", || self.camera.in_pool() == BUFFERS as usize);
    }

    fn seek(&mut self) {
        self.camera.event_now(gst::event::FlushStart::new());
        self.next_epoch();
        // Now, too: a seek ends before the next one begins.
        self.camera.event_now(gst::event::FlushStop::new(true));
        self.checker.begin(self.epoch);
        self.camera.start(self.caps);
    }

    fn restart(&mut self, down: gst::State) {
        self.set_state(down);
        self.checker.begin(self.epoch);
        self.next_epoch();
        self.checker.begin(self.epoch);
        self.may_fail = false;
        self.camera.restart();
        if let Some((_, reader)) = &self.text {
            for active in [false, true] {
                reader.set_active(active).unwrap();
            }
        }
        self.set_state(gst::State::Playing);
        self.camera.start(self.caps);
    }

    fn set_state(&self, state: gst::State) {
        let element = self.element.clone();
        in_time("a state change", move || element.set_state(state)).unwrap();
    }

    pub fn stat(&self, name: &str) -> u64 {
        let stats: gst::Structure = self.element.property("stats");
        stats.get(name).unwrap()
    }

    /// Ends the stream by `end`, stops the element, and checks the invariants.
    pub fn check(mut self, end: Op) {
        let runs_on = matches!(end, Op::Eos | Op::Seek);
        self.step(end);
        self.settle();
        if runs_on && !self.may_fail {
            wait_until("the last windows", || {
                // Other elements that share the engine hold blocks of its KV cache.
                let blocks = self.stat("kv-blocks") == 0 || self.stat("sharing") > 1;
                self.stat("outstanding") == 0 && self.stat("held") == 0 && blocks
            });
            self.check_results(false);
        }
        wait_until("the buffers", || self.camera.in_pool() == BUFFERS as usize);
        // The id of one more window tells the number of windows before it.
        self.restart(gst::State::Null);
        // Live frames before the model is loaded would not be in a window.
        wait_until("the model", || self.stat("sharing") > 0);
        self.camera.frame_after(self.now, true);
        self.settle();
        wait_until("one more window", || self.stat("outstanding") == 1);
        self.set_state(gst::State::Null);
        if self.text.is_some() {
            self.toggle_text();
        }
        self.checker.check_all_ended();
        let errors = self.checker.counts(|counts| counts.errors);
        assert!(errors <= self.broken, "{errors} errors");

        let weak = self.element.downgrade();
        let Self {
            element,
            bus,
            camera,
            backend,
            ..
        } = self;
        drop((element, bus, camera));
        wait_until("the end of the element", || weak.upgrade().is_none());
        drop(backend);
    }
}

/// Answers with the epoch and the number of the request.
fn answer(asked: Option<Asked>) {
    if let Some(mut asked) = asked {
        asked.token(1, "a piece");
        let text = format!("{} {}", asked.request.prompt, asked.number);
        asked.answer_with(text);
    }
}
