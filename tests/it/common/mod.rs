//! Common parts of the element's tests: pipelines with a fake model, and waits with a limit.
#![allow(dead_code, reason = "the soak program uses a part of it")]
#![allow(missing_docs, clippy::unwrap_used)]

pub mod bench;
pub mod camera;
#[cfg(feature = "local")]
pub mod demo;
pub mod element_state_machine;
pub mod media;
pub mod message_checker;
pub mod picture_case;
pub mod rtsp;
pub mod schema;
pub mod terminal;

use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstqwenvl::testing::{self, Hooks, ModelOptions};
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::backend::fake::{FakeBackend, Outcome};
use qwen3_vl_core::load::{LoadError, Progress};

use self::terminal::Terminal;

/// The longest wait: a test that waits longer hangs.
pub const WATCHDOG: Duration = Duration::from_secs(60);

pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstqwenvl::plugin_register_static().unwrap();
    });
}

/// An echo that answers after `delay`.
pub fn echo(delay: Duration) -> Arc<dyn Backend> {
    Arc::new(FakeBackend::new(delay, Outcome::Echo))
}

/// Hooks that load `backend`.
pub fn hooks(backend: Arc<dyn Backend>) -> Hooks {
    loader(move |_, _, _| Ok(backend.clone()))
}

pub fn loader(
    load: impl Fn(
        &ModelOptions,
        &mut dyn FnMut(Progress),
        &AtomicBool,
    ) -> Result<Arc<dyn Backend>, LoadError>
    + Send
    + Sync
    + 'static,
) -> Hooks {
    Hooks {
        load: Arc::new(load),
        ..Hooks::default()
    }
}

/// Fails the test if `work` takes longer than the watchdog.
pub fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tx, rx) = mpsc::channel();
    let thread = thread::spawn(move || {
        let _ = tx.send(work());
    });
    match rx.recv_timeout(WATCHDOG) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what} hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().unwrap_err())
        }
    }
}

/// Waits until `done`, or fails.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < WATCHDOG, "{what}: never");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A pipeline around a `qwenvl` called `q`: a launch line whose `qwenvl` is `{q}`.
pub struct Run {
    pub pipeline: gst::Pipeline,
    pub element: gst::Element,
}

impl Run {
    /// `line` holds `qwenvl name=q …`.
    pub fn new(line: &str, hooks: Hooks) -> Self {
        init();
        let pipeline = gst::parse::launch(line)
            .unwrap()
            .downcast::<gst::Pipeline>()
            .unwrap();
        let element = pipeline.by_name("q").unwrap();
        testing::set_hooks(&element, hooks);
        Self { pipeline, element }
    }

    pub fn set_state(&self, state: gst::State) -> Result<gst::StateChangeSuccess, ()> {
        let pipeline = self.pipeline.clone();
        in_time("a state change", move || {
            pipeline.set_state(state).map_err(|_| ())
        })
    }

    /// Plays to the end or the first error of `q`, and stops.
    pub fn finish(&self) -> Messages {
        let _ = self.set_state(gst::State::Playing);
        let messages = Messages::until_end(&self.pipeline.bus().unwrap(), &self.element);
        self.set_state(gst::State::Null).unwrap();
        messages
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// The messages of a bus.
#[derive(Debug, Default)]
pub struct Messages {
    pub structures: Vec<gst::Structure>,
    pub errors: Vec<(gst::glib::Error, Option<String>)>,
    pub warnings: Vec<gst::glib::Error>,
    pub progress: Vec<(gst::ProgressType, String)>,
    /// `percent` of the PROGRESS messages of type CONTINUE.
    pub percents: Vec<i32>,
    pub eos: bool,
}

impl Messages {
    /// All messages until EOS, or until an ERROR of `element` and a short silence after it.
    pub fn until_end(bus: &gst::Bus, element: &gst::Element) -> Self {
        let mut messages = Self::default();
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < WATCHDOG, "no end: {messages:?}");
            let wait = gst::ClockTime::from_mseconds(200);
            match bus.timed_pop(wait) {
                Some(message) => messages.add(&message, element),
                None if !messages.errors.is_empty() => return messages,
                None => (),
            }
            if messages.eos {
                return messages;
            }
        }
    }

    /// Adds the messages that are on the bus now.
    pub fn take_from(&mut self, bus: &gst::Bus, element: &gst::Element) {
        while let Some(message) = bus.pop() {
            self.add(&message, element);
        }
    }

    pub fn add(&mut self, message: &gst::Message, element: &gst::Element) {
        let ours = message.src() == Some(element.upcast_ref());
        match message.view() {
            gst::MessageView::Eos(_) => self.eos = true,
            _ if !ours => (),
            gst::MessageView::Error(error) => self
                .errors
                .push((error.error(), error.debug().map(Into::into))),
            gst::MessageView::Warning(warning) => self.warnings.push(warning.error()),
            gst::MessageView::Progress(progress) => {
                let (kind, _, text) = progress.get();
                self.progress.push((kind, text.to_string()));
                if kind == gst::ProgressType::Continue {
                    let structure = progress.structure().unwrap();
                    self.percents.push(structure.get("percent").unwrap());
                }
            }
            gst::MessageView::Element(message) => {
                if let Some(structure) = message.structure() {
                    Terminal::read(structure).unwrap();
                    self.structures.push(structure.to_owned());
                }
            }
            _ => (),
        }
    }

    /// Whether the model is there.
    pub fn is_loaded(&self) -> bool {
        let mut kinds = self.progress.iter().map(|(kind, _)| *kind);
        kinds.any(|kind| kind == gst::ProgressType::Complete)
    }

    pub fn named(&self, name: &str) -> Vec<&gst::Structure> {
        self.structures
            .iter()
            .filter(|s| s.name() == name)
            .collect()
    }

    pub fn descriptions(&self) -> Vec<&gst::Structure> {
        self.named("qwenvl/description")
    }

    /// Where the described windows start, by PTS in nanoseconds.
    pub fn starts(&self) -> Vec<u64> {
        let descriptions = self.descriptions();
        let starts = descriptions.iter().map(|s| s.get("start-pts").unwrap());
        starts.collect()
    }

    /// Reasons of the dropped windows, in order.
    pub fn dropped(&self) -> Vec<String> {
        let reasons = self.named("qwenvl/dropped");
        reasons.iter().map(|s| s.get("reason").unwrap()).collect()
    }

    /// Ids of the terminal messages, sorted; fails if one came twice.
    pub fn ids(&self) -> Vec<u64> {
        let terminal = |s| Terminal::read(s).unwrap();
        let terminals = self.structures.iter().filter_map(|s| terminal(s));
        let mut ids: Vec<u64> = terminals.map(|t| t.window().window_id).collect();
        ids.sort_unstable();
        let all = ids.len();
        ids.dedup();
        assert_eq!(all, ids.len(), "a window ended twice");
        ids
    }
}
