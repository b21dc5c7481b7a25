//! Eight live streams with random faults, for MINUTES, with the operations and invariants of
//! `common::element_state_machine`. Three of them have the demo model and share its engine, with
//! `--one-engine` all of them. Two hold their video (`attach=window`).
//!
//! `soak MINUTES [--seed SEED] [--one-engine]`; run it by `scripts/soak`.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

#[path = "../it/common/mod.rs"]
mod common;
mod memory;

use std::io::Write;
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use common::bench::Bench;
use common::element_state_machine::{Conditions, ElementStateMachine, Op, any_op};
use common::message_checker::MessageChecker;
use common::wait_until;
use gst::prelude::*;
use gstqwenvl::testing::Hooks;
use lexopt::prelude::*;
use memory::Memory;
use proptest::sample::select;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const USAGE: &str = "soak MINUTES [--seed SEED] [--one-engine]";
const STREAMS: u64 = 8;
/// Downstream keeps no buffer longer, in milliseconds.
const SLOW: u64 = 1_000;
/// Events of one element; then the element ends, and another one begins.
const EVENTS: usize = 100;
/// A stream must do something within this time.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Most growth of the memory from the first minute to the last.
const GROWTH_MIB: f64 = 16.0;

/// A stream does nothing.
#[derive(Debug, thiserror::Error)]
#[error(
    "stream {number} has done nothing for {STALL_TIMEOUT:?}, it is at {what}.\n\
     gdb --pid {} --batch -ex 'thread apply all backtrace' shows why, for a minute",
    std::process::id()
)]
struct StandsStill {
    number: usize,
    what: String,
}

/// The state of a stream that other threads read.
#[derive(Default)]
struct Stream {
    /// Time of its last operation in seconds since the start, and the current one.
    doing: Mutex<(u64, String)>,
    checker: Mutex<MessageChecker>,
    /// Windows described and dropped, and errors, of the runs before this one.
    before: [AtomicU64; 3],
    runs: AtomicU64,
}

impl Stream {
    /// Windows described and dropped, and errors.
    fn counts(&self) -> [u64; 3] {
        let now = self.checker.lock().unwrap().counts(|counts| {
            let errors = counts.errors as u64;
            [counts.described, counts.dropped, errors]
        });
        [0, 1, 2].map(|i| now[i] + self.before[i].load(Ordering::Relaxed))
    }

    fn ended(&self) {
        for (sum, count) in self.before.iter().zip(self.counts()) {
            sum.store(count, Ordering::Relaxed);
        }
        *self.checker.lock().unwrap() = MessageChecker::default();
        self.runs.fetch_add(1, Ordering::Relaxed);
    }
}

fn conditions(stream: u64, one_engine: bool) -> Conditions {
    Conditions {
        live: true,
        demo: one_engine || stream < 3,
        holds: stream == 0 || stream == 3,
        paced: true,
    }
}

/// Makes one run after the other until `stop`.
fn live(number: u64, options: Options, start: Instant, stop: &AtomicBool, stream: &Stream) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&options.seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let ops = any_op(SLOW);
    let ends = select(vec![Op::Eos, Op::Seek, Op::Restart(gst::State::Ready)]);
    let doing = |what: &dyn std::fmt::Debug| {
        *stream.doing.lock().unwrap() = (start.elapsed().as_secs(), format!("{what:?}"));
    };
    while !stop.load(Ordering::Relaxed) {
        let mut machine = ElementStateMachine::new(conditions(number, options.one_engine));
        *stream.checker.lock().unwrap() = machine.checker.clone();
        for _ in 0..EVENTS {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let op = ops.new_tree(&mut runner).unwrap().current();
            doing(&op);
            machine.step(op);
        }
        let end = ends.new_tree(&mut runner).unwrap().current();
        doing(&("the end", &end));
        machine.check(end);
        stream.ended();
    }
}

/// An element that shares the engine of the demo streams, to check what they leave there.
struct Witness(gst::Element);

impl Witness {
    fn new() -> Self {
        let (element, ..) = Bench::idle(Hooks::default());
        element.set_state(gst::State::Paused).unwrap();
        let this = Self(element);
        wait_until("the engine", || this.stat("sharing") > 0);
        this
    }

    fn stat(&self, name: &str) -> u64 {
        let stats: gst::Structure = self.0.property("stats");
        stats.get(name).unwrap()
    }

    /// Checks the engine after all other elements have ended.
    fn check(self) {
        wait_until("an engine without windows", || {
            self.stat("sharing") == 1 && self.stat("kv-blocks") == 0
        });
        self.0.set_state(gst::State::Null).unwrap();
    }
}

fn report(seconds: u64, rss: f64, streams: &[Arc<Stream>]) {
    let sums = |i: usize| streams.iter().map(|s| s.counts()[i]).sum::<u64>();
    let runs: u64 = streams.iter().map(|s| s.runs.load(Ordering::Relaxed)).sum();
    let [answers, drops, errors] = [0, 1, 2].map(sums);
    println!(
        "{seconds:>5} s  {rss:>6.1} MiB  {:>5} windows  {answers:>5} answers  {drops:>5} drops  \
         {errors:>3} errors  {runs:>3} runs  {:>3} threads",
        answers + drops,
        memory::threads(),
    );
}

/// Watches the streams until all have ended, and sets `end` when the time is over.
fn watch(
    minutes: u64,
    start: Instant,
    mut end: impl FnMut(),
    streams: &[Arc<Stream>],
    mut threads: Vec<JoinHandle<()>>,
) -> anyhow::Result<Memory> {
    let mut memory = Memory::default();
    for second in 1.. {
        let next = start + Duration::from_secs(second);
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let running = second <= minutes * 60;
        if running {
            memory.sample();
        } else {
            end();
        }
        if second.is_multiple_of(10) {
            report(second, memory.now(), streams);
        }
        for (number, stream) in streams.iter().enumerate() {
            let (since, what) = stream.doing.lock().unwrap().clone();
            if what.is_empty()
                || threads.is_empty()
                || second.saturating_sub(since) < STALL_TIMEOUT.as_secs()
            {
                continue;
            }
            bail!(StandsStill { number, what });
        }
        let (ended, rest): (Vec<_>, Vec<_>) =
            threads.into_iter().partition(JoinHandle::is_finished);
        threads = rest;
        for thread in ended {
            ensure!(thread.join().is_ok(), "a stream failed");
        }
        if threads.is_empty() {
            report(second, memory.now(), streams);
            return Ok(memory);
        }
    }
    unreachable!("seconds do not end")
}

#[derive(Clone, Copy)]
struct Options {
    minutes: u64,
    seed: u64,
    one_engine: bool,
}

fn options() -> anyhow::Result<Options> {
    let clock = SystemTime::UNIX_EPOCH.elapsed()?.as_millis() as u64;
    let (mut minutes, mut seed, mut one_engine) = (None, clock, false);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(value) if minutes.is_none() => minutes = Some(value.parse()?),
            Long("seed") => seed = arguments.value()?.parse()?,
            Long("one-engine") => one_engine = true,
            Long("help") => {
                let _ = writeln!(std::io::stdout(), "{USAGE}");
                exit(0);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Options {
        minutes: minutes.context(USAGE)?,
        seed,
        one_engine,
    })
}

fn soak(options: Options) -> anyhow::Result<()> {
    let start = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let mut witness = None;
    let streams: Vec<_> = (0..STREAMS).map(|_| Arc::<Stream>::default()).collect();
    let threads = (0..STREAMS)
        .zip(streams.iter().cloned())
        .map(|(i, stream)| {
            let stop = stop.clone();
            thread::spawn(move || live(i, options, start, &stop, &stream))
        });
    let threads = threads.collect();
    let end = || {
        witness.get_or_insert_with(Witness::new);
        stop.store(true, Ordering::Relaxed);
    };
    let memory = watch(options.minutes, start, end, &streams, threads)?;
    if let Some(witness) = witness {
        witness.check();
    }
    let growth = memory.growth();
    println!(
        "Memory by minute (the most, MiB): {:.1?}\nLast minute - first minute: {growth:.1} MiB; \
         slope after the first minute: {:.3?} MiB a minute",
        memory.minutes(),
        memory.slope()
    );
    for (number, stream) in streams.iter().enumerate() {
        let [answers, drops, errors] = stream.counts();
        let conditions = conditions(number as u64, options.one_engine);
        println!(
            "stream {number}: {answers} answers, {drops} drops, {errors} errors, {conditions:?}"
        );
        ensure!(answers > 0, "stream {number} has described nothing");
    }
    ensure!(growth <= GROWTH_MIB, "memory grows");
    Ok(())
}

fn main() -> anyhow::Result<ExitCode> {
    let options = options()?;
    let Options { minutes, seed, .. } = options;
    println!("{STREAMS} streams, {minutes} minutes, --seed {seed}");
    common::init();
    if let Err(error) = soak(options) {
        println!("FAILED, --seed {seed}: {error}");
        if error.is::<StandsStill>() {
            // Time to look at it.
            thread::sleep(Duration::from_secs(60));
        }
        // Without waiting for anything.
        exit(1);
    }
    println!("Passed.");
    Ok(ExitCode::SUCCESS)
}
