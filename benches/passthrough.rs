//! The cost of a passing frame in the streaming thread: the time of one `gst_pad_push` of 1080p
//! NV12 into `qwenvl`, against `identity` and `queue`, frame by frame in one run. The backend takes
//! 10 s an answer, so the engine is always behind, as in a live pipeline.
//!
//! `cargo bench --bench passthrough [-- SAMPLED]`: number of sampled frames, 400 by default.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstqwenvl::testing::{self, Hooks};
use qwen3_vl_core::backend::fake::{FakeBackend, Outcome};

const CAPS: &str = "video/x-raw,format=NV12,width=1920,height=1080,framerate=30/1";
const FRAME: gst::ClockTime = gst::ClockTime::from_nseconds(33_333_333);

/// The worker converts a sampled frame in this time; a stream at its own pace leaves it 500 ms.
const PAUSE: Duration = Duration::from_millis(40);

/// An element between a live source pad and a sink pad that drops buffers.
struct Chain {
    element: gst::Element,
    src: gst::Pad,
    _sink: gst::Pad,
    /// Address of the memory that came out last.
    out: Arc<AtomicUsize>,
}

impl Chain {
    fn new(element: gst::Element) -> Self {
        let src = gst::Pad::builder(gst::PadDirection::Src)
            .query_function(|pad, parent, query| match query.view_mut() {
                gst::QueryViewMut::Latency(query) => {
                    query.set(true, FRAME, gst::ClockTime::NONE);
                    true
                }
                _ => gst::Pad::query_default(pad, parent, query),
            })
            .build();
        let out = Arc::new(AtomicUsize::new(0));
        let seen = out.clone();
        let sink = gst::Pad::builder(gst::PadDirection::Sink)
            .chain_function(move |_, _, buffer| {
                seen.store(memory(&buffer), Ordering::Release);
                Ok(gst::FlowSuccess::Ok)
            })
            .build();
        src.link(&element.static_pad("sink").unwrap()).unwrap();
        element.static_pad("src").unwrap().link(&sink).unwrap();
        sink.set_active(true).unwrap();
        element.set_state(gst::State::Playing).unwrap();
        src.set_active(true).unwrap();
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        for event in [
            gst::event::StreamStart::new("bench"),
            gst::event::Caps::new(&CAPS.parse().unwrap()),
            gst::event::Segment::new(&segment),
        ] {
            assert!(src.push_event(event));
        }
        Self {
            element,
            src,
            _sink: sink,
            out,
        }
    }

    /// Nanoseconds of a push, and whether the buffer left with other memory.
    fn push(&self, memory_in: &gst::Buffer, pts: gst::ClockTime) -> (u64, bool) {
        let mut buffer = memory_in.copy();
        let header = buffer.get_mut().unwrap();
        header.set_pts(pts);
        header.set_duration(FRAME);
        self.out.store(0, Ordering::Release);
        let start = Instant::now();
        self.src.push(buffer).unwrap();
        let took = start.elapsed().as_nanos() as u64;
        // `queue` has a thread of its own.
        let mut out = self.out.load(Ordering::Acquire);
        while out == 0 {
            thread::yield_now();
            out = self.out.load(Ordering::Acquire);
        }
        (took, out != memory(memory_in))
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        let _ = self.src.set_active(false);
        let _ = self.element.set_state(gst::State::Null);
    }
}

fn memory(buffer: &gst::Buffer) -> usize {
    buffer.peek_memory(0).as_ptr() as usize
}

fn make(name: &str) -> gst::Element {
    gst::ElementFactory::make(name).build().unwrap()
}

fn qwenvl() -> gst::Element {
    let backend = Arc::new(FakeBackend::new(Duration::from_secs(10), Outcome::Echo));
    let element = make("qwenvl");
    let hooks = Hooks {
        load: Arc::new(move |_, _, _| Ok(backend.clone())),
        ..Hooks::default()
    };
    testing::set_hooks(&element, hooks);
    element
}

fn stat(element: &gst::Element, name: &str) -> u64 {
    element
        .property::<gst::Structure>("stats")
        .get(name)
        .unwrap()
}

fn row(name: &str, times: &mut [u64], base: u64) -> u64 {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "{name:<24} {:>6} {:>9} {:>9} {:>9} {:>10.2}",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        at(0.5) as f64 / if base == 0 { at(0.5) } else { base } as f64,
    );
    at(0.5)
}

fn main() {
    let arguments = std::env::args().skip(1);
    let wanted = arguments.filter_map(|a| a.parse().ok()).next();
    let wanted: u64 = wanted.unwrap_or(400);
    gst::init().unwrap();
    gstqwenvl::plugin_register_static().unwrap();

    let buffers: Vec<gst::Buffer> = (0..8)
        .map(|_| gst::Buffer::from_mut_slice(vec![128u8; 1920 * 1080 * 3 / 2]))
        .collect();
    let chains = [make("identity"), make("queue"), qwenvl()].map(Chain::new);
    let qwenvl = &chains[2].element;
    let [mut of_identity, mut of_queue, mut passed, mut sampled] = [const { Vec::new() }; 4];
    let mut others = 0;
    let mut pts = gst::ClockTime::ZERO;
    let mut before = 0;
    // The first frames are a warm-up, and come before the model is loaded.
    for i in 0u64.. {
        let buffer = &buffers[i as usize % buffers.len()];
        // In turns, because the first one has the coldest caches.
        let mut took = [(0, false); 3];
        for j in 0..3 {
            let which = (i as usize + j) % 3;
            took[which] = chains[which].push(buffer, pts);
        }
        let now = stat(qwenvl, "sampled");
        let is_sampled = now != before;
        before = now;
        if i >= 300 {
            of_identity.push(took[0].0);
            of_queue.push(took[1].0);
            (if is_sampled {
                &mut sampled
            } else {
                &mut passed
            })
            .push(took[2].0);
            others += u64::from(took[2].1);
        }
        if is_sampled {
            thread::sleep(PAUSE);
        }
        if sampled.len() as u64 >= wanted {
            break;
        }
        pts += FRAME;
    }

    println!(
        "{:<24} {:>6} {:>9} {:>9} {:>9} {:>10}",
        "ns per push", "frames", "p50", "p99", "max", "x identity"
    );
    let base = row("identity", &mut of_identity, 0);
    row("queue", &mut of_queue, base);
    row("qwenvl, not sampled", &mut passed, base);
    row("qwenvl, sampled", &mut sampled, base);
    println!("frames that left in another memory: {others}");
    for name in ["copied", "skipped", "dropped"] {
        println!("{name}: {}", stat(qwenvl, name));
    }
}
