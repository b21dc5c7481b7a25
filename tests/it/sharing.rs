//! Elements with the same model share one engine, and one of them disturbs no other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use gst::prelude::*;
use gstqwenvl::testing::{Hooks, ModelOptions, load_options};
use qwen3_vl::shared::ModelKey;
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::load::{Load, LoadError, Loaded, Progress};
use qwen3_vl_core::registry::Registry;

use crate::common::bench::Bench;
use crate::common::demo::{self, DESCRIBE};
use crate::common::media;
use crate::common::{Messages, Run, loader, wait_until};

/// A registry of a test's own, with the engines that it has loaded.
#[derive(Clone)]
struct Engines {
    registry: Registry<ModelKey>,
    loaded: Arc<Mutex<Vec<Weak<dyn Backend>>>>,
    begun: Arc<AtomicUsize>,
    /// Loads wait until it is set.
    gate: Arc<AtomicBool>,
}

impl Engines {
    fn new() -> Self {
        Self {
            registry: Registry::default(),
            loaded: Arc::default(),
            begun: Arc::default(),
            gate: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Loads a model once the gate is open.
    fn load(
        &self,
        options: &ModelOptions,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Loaded {
        self.begun.fetch_add(1, Ordering::SeqCst);
        progress(Progress {
            what: "at the gate".into(),
            percent: 1,
        });
        wait_until("the gate", || {
            self.gate.load(Ordering::SeqCst) || cancel.load(Ordering::SeqCst)
        });
        if cancel.load(Ordering::SeqCst) {
            return Err(LoadError::Cancelled);
        }
        let engine = demo::load(options, progress, cancel)?;
        self.loaded.lock().unwrap().push(Arc::downgrade(&engine));
        Ok(engine)
    }

    fn hooks(&self) -> Hooks {
        let this = self.clone();
        loader(move |options, progress, cancel| {
            let key = ModelKey::new(&load_options(options).unwrap());
            let (own, model) = (this.clone(), options.clone());
            let load: Load = Box::new(move |progress, cancel| own.load(&model, progress, cancel));
            this.registry.load(key, load, progress, cancel)
        })
    }

    fn loads(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    /// Number of engines now.
    fn alive(&self) -> usize {
        let loaded = self.loaded.lock().unwrap();
        loaded.iter().filter(|e| e.strong_count() > 0).count()
    }
}

/// Threads of engines in this process.
#[cfg(target_os = "linux")]
fn engine_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "qwen3-vl").count()
}

fn stat(element: &gst::Element, name: &str) -> u64 {
    let stats: gst::Structure = element.property("stats");
    stats.get(name).unwrap()
}

fn film(hooks: Hooks) -> Run {
    let line = format!(
        "filesrc location=\"{}\" ! decodebin ! \
         qwenvl name=q prompt=\"{DESCRIBE}\" emit-tokens=true ! fakesink",
        media::path("film.mp4").display()
    );
    Run::new(&line, hooks)
}

/// The tokens and texts of each window's answer.
fn pieces(messages: &Messages) -> Vec<(u64, String)> {
    let tokens = messages.named("qwenvl/token").into_iter();
    let mut pieces: Vec<_> = tokens
        .map(|s| (s.get("window-id").unwrap(), s.get("text").unwrap()))
        .collect();
    // Terminal messages come in the order of the windows, tokens as they are generated.
    pieces.sort_by_key(|(window, _)| *window);
    pieces
}

#[test]
fn eight_elements_are_one_engine_and_all_say_what_one_alone_says() {
    let alone = film(Engines::new().hooks()).finish();
    let truths = media::rows("film.json");
    let wanted: Vec<_> = truths
        .iter()
        .map(|row| media::text(row, "describe"))
        .collect();
    assert_eq!(demo::texts(&alone), wanted);

    let engines = Engines::new();
    let runs: Vec<_> = (0..8).map(|_| film(engines.hooks())).collect();
    for run in &runs {
        run.set_state(gst::State::Paused).unwrap();
    }
    for run in &runs {
        wait_until("all elements", || stat(&run.element, "sharing") == 8);
    }
    assert_eq!((engines.loads(), engines.alive()), (1, 1));
    for run in &runs {
        run.pipeline.set_state(gst::State::Playing).unwrap();
    }
    for run in &runs {
        let bus = run.pipeline.bus().unwrap();
        let messages = Messages::until_end(&bus, &run.element);
        assert_eq!(demo::texts(&messages), wanted);
        assert!(!pieces(&messages).is_empty());
        assert_eq!(pieces(&messages), pieces(&alone));
    }
    assert_eq!(engines.loads(), 1);
    let [rest @ .., last] = &runs[..] else {
        unreachable!()
    };
    for (gone, run) in rest.iter().enumerate() {
        assert_eq!(stat(&last.element, "sharing"), 8 - gone as u64);
        run.set_state(gst::State::Null).unwrap();
        assert_eq!(stat(&run.element, "sharing"), 0);
    }
    assert_eq!(engines.alive(), 1);
    last.set_state(gst::State::Null).unwrap();
    assert_eq!(engines.alive(), 0);
}

/// As in an application, without hooks; no other test here does so, nor has an engine meanwhile.
#[test]
#[ignore = "counts the threads of the process: run by `the_process_has_one_engine`"]
#[cfg(target_os = "linux")]
fn alone_the_process_has_one_engine() {
    let runs: Vec<_> = (0..8).map(|_| film(Hooks::default())).collect();
    for run in &runs {
        run.set_state(gst::State::Paused).unwrap();
    }
    for run in &runs {
        wait_until("all elements", || stat(&run.element, "sharing") == 8);
    }
    // A thread names itself when it first runs.
    wait_until("the engine's thread", || engine_threads() > 0);
    assert_eq!(engine_threads(), 1);
    drop(runs);
    assert_eq!(engine_threads(), 0);
}

#[test]
#[cfg(target_os = "linux")]
fn the_process_has_one_engine() {
    let test = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "sharing::alone_the_process_has_one_engine",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&test.stdout);
    assert!(test.status.success() && said.contains("1 passed"), "{said}");
}

const PROPERTIES: [(&str, &str); 2] = [("max-tokens", "16"), ("max-pending", "8")];

fn bench(engines: &Engines, more: &[(&str, &str)]) -> Bench {
    let properties = [&PROPERTIES, more].concat();
    Bench::new(engines.hooks(), true, &properties).ready()
}

/// Texts of the descriptions, after `count` windows have ended.
fn described(bench: &mut Bench, count: usize) -> Vec<String> {
    bench.ended(count);
    let all = bench.messages.descriptions();
    all.iter().map(|s| s.get("text").unwrap()).collect()
}

#[test]
fn an_element_that_stops_flushes_or_asks_the_impossible_disturbs_no_other() {
    let engines = Engines::new();
    let mut alone = bench(&engines, &[]);
    alone.frames(0..13_000);
    let wanted = described(&mut alone, 3);
    assert_eq!(wanted.len(), 3);
    alone.stop();

    let engines = Engines::new();
    let mut good = [(); 3].map(|()| bench(&engines, &[]));
    let mut stops = bench(&engines, &[]);
    let mut flushes = bench(&engines, &[]);
    // Four pairs of a thousand tokens and more, of 4096 that the model can hold.
    let mut fails = bench(&engines, &[("min-pixels", "1100000")]);
    assert_eq!(stat(&good[0].element, "sharing"), 6);
    for start in (0..13_000).step_by(500) {
        let now = start..start + 500;
        good.iter_mut().for_each(|bench| bench.frames(now.clone()));
        // All of them with one window asked or answered, and in the middle of the next one.
        match start {
            0..6_000 => {
                stops.frames(now.clone());
                flushes.frames(now.clone());
            }
            6_000 => {
                stops.stop();
                flushes.event(gst::event::FlushStart::new());
                flushes.event(gst::event::FlushStop::new(true));
                let segment = gst::FormattedSegment::<gst::ClockTime>::new();
                flushes.event(gst::event::Segment::new(&segment));
            }
            _ => flushes.frames(start - 6_500..start - 6_000),
        }
        if start < 4_500 {
            fails.frames(now);
        }
    }
    for bench in &mut good {
        assert_eq!(described(bench, 3), wanted);
        assert_eq!(bench.messages.dropped(), [""; 0]);
    }
    assert_eq!(stops.messages.ids(), [0, 1]);
    assert_eq!(stops.messages.dropped().last().unwrap(), "cancelled");
    // Two windows of before the flush, and one after it.
    flushes.ended(3);
    assert!(flushes.messages.dropped().iter().all(|why| why == "flush"));
    let last: String = flushes
        .messages
        .descriptions()
        .last()
        .unwrap()
        .get("text")
        .unwrap();
    assert_eq!(last, wanted[0]);
    // Its second window has been refused when it opened, as the first one.
    fails.ended(2);
    assert_eq!(fails.messages.dropped(), ["error"; 2]);
    for bench in good.iter().chain([&flushes, &fails]) {
        assert!(bench.messages.errors.is_empty());
    }

    fails.stop();
    flushes.stop();
    let [first, others @ ..] = &mut good;
    others.iter_mut().for_each(Bench::stop);
    assert_eq!(engines.loads(), 1);
    // The others' windows have left nothing; its own fourth one is open, with frames.
    first.event(gst::event::FlushStart::new());
    wait_until("the last blocks", || stat(&first.element, "kv-blocks") == 0);
    first.stop();
    assert_eq!(engines.alive(), 0);
}

#[test]
fn an_element_that_stops_while_the_model_loads_leaves_it_to_the_others() {
    let engines = Engines::new();
    engines.gate.store(false, Ordering::SeqCst);
    let waiting = || {
        let mut bench = Bench::new(engines.hooks(), true, &PROPERTIES);
        wait_until("the load", || {
            bench.collect();
            let mut progress = bench.messages.progress.iter();
            progress.any(|(_, text)| text.starts_with("at the gate"))
        });
        bench
    };
    let (mut first, second) = (waiting(), waiting());
    first.stop();
    wait_until("the first one's load", || {
        first.collect();
        let (kind, _) = first.messages.progress.last().unwrap();
        *kind == gst::ProgressType::Canceled
    });
    assert!(!second.messages.is_loaded());
    engines.gate.store(true, Ordering::SeqCst);
    let mut second = second.ready();
    second.frames(0..4_500);
    assert_eq!(described(&mut second, 1).len(), 1);
    assert_eq!(engines.loads(), 1);
    assert_eq!(stat(&second.element, "sharing"), 1);
    second.stop();
    assert_eq!(engines.alive(), 0);
}

#[test]
fn another_type_of_weights_is_another_engine_and_the_last_one_gone_is_loaded_again() {
    let engines = Engines::new();
    let mut stored = bench(&engines, &[]);
    let mut half = bench(&engines, &[("dtype", "f16")]);
    assert_eq!((engines.loads(), engines.alive()), (2, 2));
    for bench in [&stored, &half] {
        assert_eq!(stat(&bench.element, "sharing"), 1);
    }
    let mut other = bench(&engines, &[("dtype", "f16")]);
    assert_eq!(stat(&half.element, "sharing"), 2);
    half.stop();
    stored.stop();
    assert_eq!((engines.loads(), engines.alive()), (2, 1));
    other.frames(0..4_500);
    assert_eq!(described(&mut other, 1).len(), 1);
    other.stop();
    assert_eq!(engines.alive(), 0);
    let mut again = bench(&engines, &[]);
    assert_eq!((engines.loads(), engines.alive()), (3, 1));
    again.stop();
}
