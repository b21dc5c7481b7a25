//! The delay that `qwenvl` adds to live 1080p60 NV12 video while the engine never answers: the time
//! from its sink pad to its source pad, for every frame. The camera has a pool of [`BUFFERS`]
//! buffers and pushes by the clock.
//!
//! `cargo bench --bench live [-- SECONDS]`: the length of each run, 60 by default.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstqwenvl::testing::{self, Hooks, Stage};
use qwen3_vl_core::backend::fake::{FakeBackend, Outcome};

const CAPS: &str = "video/x-raw,format=NV12,width=1920,height=1080,framerate=60/1";
const BYTES: u32 = 1920 * 1080 * 3 / 2;
const BUFFERS: u32 = 8;
const RATE: u64 = 60;
/// Frames before the measurement: warm-up, and frames before the model is loaded.
const WARM: u64 = 2 * RATE;

/// A frame inside the element.
#[derive(Clone, Copy)]
struct Frame {
    number: u64,
    memory: usize,
    at: Instant,
}

/// The measured frames.
#[derive(Default)]
struct Seen {
    inside: Option<Frame>,
    out: u64,
    /// Nanoseconds between the pads, of frames that were not sampled and of those that were.
    passed: Vec<u64>,
    sampled: Vec<u64>,
    other_memory: u64,
    /// Sampled frames so far.
    samples: u64,
}

fn frame(buffer: &gst::BufferRef) -> Frame {
    Frame {
        number: buffer.offset(),
        memory: buffer.peek_memory(0).as_ptr() as usize,
        at: Instant::now(),
    }
}

fn stat(element: &gst::Element, name: &str) -> u64 {
    let stats: gst::Structure = element.property("stats");
    stats.get(name).unwrap()
}

fn seen(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap()
}

/// Records when a frame enters and leaves the element.
fn watch(element: &gst::Element) -> Arc<Mutex<Seen>> {
    let notes = Arc::<Mutex<Seen>>::default();
    let note = notes.clone();
    let sink = element.static_pad("sink").unwrap();
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        seen(&note).inside = Some(frame(info.buffer().unwrap()));
        gst::PadProbeReturn::Ok
    });
    let (note, weak) = (notes.clone(), element.downgrade());
    let src = element.static_pad("src").unwrap();
    src.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let left = frame(info.buffer().unwrap());
        let samples = stat(&weak.upgrade().unwrap(), "sampled");
        let mut seen = seen(&note);
        let entered = seen.inside.take().unwrap();
        assert_eq!(entered.number, left.number, "the order of frames");
        let took = (left.at - entered.at).as_nanos() as u64;
        seen.out += 1;
        seen.other_memory += u64::from(entered.memory != left.memory);
        if left.number >= WARM {
            let times = match samples > seen.samples {
                true => &mut seen.sampled,
                false => &mut seen.passed,
            };
            times.push(took);
        }
        seen.samples = samples;
        gst::PadProbeReturn::Ok
    });
    notes
}

/// A live source pad, and a sink pad that keeps nothing, around the element.
fn link(element: &gst::Element) -> (gst::Pad, gst::Pad) {
    let interval = gst::ClockTime::SECOND / RATE;
    let src = gst::Pad::builder(gst::PadDirection::Src)
        .query_function(move |pad, parent, query| match query.view_mut() {
            gst::QueryViewMut::Latency(query) => {
                query.set(true, interval, gst::ClockTime::NONE);
                true
            }
            _ => gst::Pad::query_default(pad, parent, query),
        })
        .build();
    let sink = gst::Pad::builder(gst::PadDirection::Sink)
        .chain_function(|_, _, _| Ok(gst::FlowSuccess::Ok))
        .build();
    src.link(&element.static_pad("sink").unwrap()).unwrap();
    element.static_pad("src").unwrap().link(&sink).unwrap();
    sink.set_active(true).unwrap();
    element.set_state(gst::State::Playing).unwrap();
    src.set_active(true).unwrap();
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    for event in [
        gst::event::StreamStart::new("camera"),
        gst::event::Caps::new(&CAPS.parse().unwrap()),
        gst::event::Segment::new(&segment),
    ] {
        assert!(src.push_event(event));
    }
    (src, sink)
}

/// Pushes for `seconds`. Returns the number of frames that got a buffer, and of those that did not.
fn play(src: &gst::Pad, seconds: u64) -> (u64, u64) {
    let pool = gst::BufferPool::new();
    let mut config = pool.config();
    config.set_params(None, BYTES, BUFFERS, BUFFERS);
    pool.set_config(config).unwrap();
    pool.set_active(true).unwrap();
    let flags = gst::BufferPoolAcquireFlags::DONTWAIT;
    let now = gst::BufferPoolAcquireParams::with_flags(flags);
    let interval = gst::ClockTime::SECOND / RATE;
    let start = Instant::now();
    let (mut pushed, mut none) = (0, 0);
    for tick in 0..WARM + seconds * RATE {
        let due = start + Duration::from_nanos(tick * 1_000_000_000 / RATE);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let Ok(mut buffer) = pool.acquire_buffer(Some(&now)) else {
            none += 1;
            continue;
        };
        let header = buffer.get_mut().unwrap();
        header.set_offset(tick);
        header.set_pts(interval * tick);
        header.set_duration(interval);
        src.push(buffer).unwrap();
        pushed += 1;
    }
    pool.set_active(false).unwrap();
    (pushed, none)
}

fn row(name: &str, times: &mut [u64]) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(at);
    println!("{name:<28} {:>6} {p50:>9} {p99:>9} {max:>9}", times.len());
}

/// `busy`: time that the worker needs for a frame besides its work.
fn run(name: &str, busy: Duration, seconds: u64) {
    let backend = Arc::new(FakeBackend::new(Duration::from_secs(3600), Outcome::Echo));
    let element = gst::ElementFactory::make("qwenvl").build().unwrap();
    testing::set_hooks(
        &element,
        Hooks {
            load: Arc::new(move |_, _, _| Ok(backend.clone())),
            at: Arc::new(move |stage| {
                if stage == Stage::Worker {
                    thread::sleep(busy);
                }
            }),
            ..Hooks::default()
        },
    );
    let notes = watch(&element);
    let (src, sink) = link(&element);
    let (pushed, none) = play(&src, seconds);
    let mut seen = seen(&notes);
    println!("{name}");
    row("  frame not sampled, ns", &mut seen.passed);
    row("  frame sampled, ns", &mut seen.sampled);
    println!(
        "  frames lost: {} of {pushed}, without a buffer: {none}, in other memory: {}",
        pushed - seen.out,
        seen.other_memory
    );
    for name in ["sampled", "copied", "skipped", "described", "dropped"] {
        println!("  {name}: {}", stat(&element, name));
    }
    drop(seen);
    src.set_active(false).unwrap();
    element.set_state(gst::State::Null).unwrap();
    sink.set_active(false).unwrap();
}

fn main() {
    let seconds = std::env::args().skip(1).find_map(|a| a.parse().ok());
    let seconds = seconds.unwrap_or(60);
    gst::init().unwrap();
    gstqwenvl::plugin_register_static().unwrap();
    println!(
        "{:<28} {:>6} {:>9} {:>9} {:>9}",
        "", "frames", "p50", "p99", "max"
    );
    run("the engine never answers", Duration::ZERO, seconds);
    // Samples come every 500 ms, so two buffers are held, and further frames copied or skipped.
    run(
        "the worker is too slow, too",
        Duration::from_millis(700),
        seconds,
    );
}
