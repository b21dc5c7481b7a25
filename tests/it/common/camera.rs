//! A camera with a pool of four buffers, as V4L2 and VA-API have, and a screen; `qwenvl` between.
//! Events and frames go through one thread, as in a pipeline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gst::prelude::*;

use super::WATCHDOG;

/// Buffers of the camera.
pub const BUFFERS: u32 = 4;

/// Two formats with frames of one size in bytes.
pub const CAPS: [&str; 2] = [
    "video/x-raw,format=RGB,width=96,height=64,framerate=10/1",
    "video/x-raw,format=GRAY8,width=192,height=96,framerate=10/1",
];
const BYTES: u32 = 96 * 64 * 3;

type Flow = Result<gst::FlowSuccess, gst::FlowError>;

/// A step of the streaming thread.
enum Step {
    /// A frame, and whether it does not continue the one before.
    Frame(gst::ClockTime, bool),
    Event(gst::Event),
}

/// The result of a step.
#[derive(Debug)]
pub enum Done {
    /// The frame was pushed.
    Flow(Flow),
    /// The event was pushed; the flag is its return value.
    Event(bool),
}

/// A buffer that left the element.
pub struct Shown {
    pub pts: gst::ClockTime,
    /// Address of its memory.
    pub memory: usize,
    pub descriptions: Vec<gst::Structure>,
}

pub struct Camera {
    pub pool: gst::BufferPool,
    /// PTS and memory address of the pushed buffers.
    pub taken: Arc<Mutex<Vec<(gst::ClockTime, usize)>>>,
    /// The buffers that left.
    pub shown: Arc<Mutex<Vec<Shown>>>,
    /// Milliseconds for which the screen keeps the next buffer.
    pub slow: Arc<AtomicU64>,
    src: gst::Pad,
    screen: gst::Pad,
    steps: Option<Sender<Step>>,
    done: Receiver<Done>,
    results: Vec<Done>,
    /// Steps that are not done.
    pending: usize,
    /// When the last step was done.
    progress: Instant,
    thread: Option<JoinHandle<()>>,
}

fn address(buffer: &gst::BufferRef) -> usize {
    buffer.peek_memory(0).as_ptr() as usize
}

impl Camera {
    /// Links pads to the element.
    pub fn new(element: &gst::Element, live: bool) -> Self {
        let pool = gst::BufferPool::new();
        let mut config = pool.config();
        config.set_params(None, BYTES, BUFFERS, BUFFERS);
        pool.set_config(config).unwrap();
        pool.set_active(true).unwrap();

        let src = gst::Pad::builder(gst::PadDirection::Src)
            .query_function(move |pad, parent, query| match query.view_mut() {
                gst::QueryViewMut::Latency(query) => {
                    query.set(live, gst::ClockTime::ZERO, gst::ClockTime::NONE);
                    true
                }
                _ => gst::Pad::query_default(pad, parent, query),
            })
            .build();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let screen = shown.clone();
        let slow = Arc::new(AtomicU64::new(0));
        let keep = slow.clone();
        // Without a template the pad accepts its current caps only.
        let any = gst::PadTemplate::new(
            "sink",
            gst::PadDirection::Sink,
            gst::PadPresence::Always,
            &gst::Caps::new_any(),
        );
        let screen = gst::Pad::builder_from_template(&any.unwrap())
            .chain_function(move |_, _, buffer| {
                thread::sleep(Duration::from_millis(keep.swap(0, Ordering::Relaxed)));
                screen.lock().unwrap().push(Shown {
                    pts: buffer.pts().unwrap(),
                    memory: address(&buffer),
                    descriptions: gstqwenvl::meta::descriptions(&buffer),
                });
                Ok(gst::FlowSuccess::Ok)
            })
            .build();
        src.link(&element.static_pad("sink").unwrap()).unwrap();
        element.static_pad("src").unwrap().link(&screen).unwrap();
        src.set_active(true).unwrap();
        screen.set_active(true).unwrap();

        let taken = Arc::new(Mutex::new(Vec::new()));
        let (steps, to_do) = mpsc::channel();
        let (report, done) = mpsc::channel();
        let thread = thread::spawn({
            let (src, pool, taken) = (src.clone(), pool.clone(), taken.clone());
            move || {
                for step in to_do {
                    let result = match step {
                        Step::Event(event) => Done::Event(src.push_event(event)),
                        Step::Frame(pts, discont) => {
                            let buffer = frame(&pool, pts, discont);
                            let identity = (pts, address(&buffer));
                            let flow = src.push(buffer);
                            if flow.is_ok() {
                                taken.lock().unwrap().push(identity);
                            }
                            Done::Flow(flow)
                        }
                    };
                    if report.send(result).is_err() {
                        return;
                    }
                }
            }
        });
        Self {
            pool,
            taken,
            shown,
            slow,
            src,
            screen,
            steps: Some(steps),
            done,
            results: Vec::new(),
            pending: 0,
            progress: Instant::now(),
            thread: Some(thread),
        }
    }

    fn step(&mut self, step: Step) {
        if self.is_done() {
            self.progress = Instant::now();
        }
        self.pending += 1;
        self.steps.as_ref().unwrap().send(step).unwrap();
    }

    /// Queues a frame.
    pub fn frame(&mut self, ms: u64) {
        self.frame_after(ms, false);
    }

    /// Queues a frame, with the DISCONT flag if `discont`.
    pub fn frame_after(&mut self, ms: u64, discont: bool) {
        self.step(Step::Frame(gst::ClockTime::from_mseconds(ms), discont));
    }

    /// Queues an event.
    pub fn event(&mut self, event: gst::Event) {
        self.step(Step::Event(event));
    }

    /// Pushes an event at once, past the queue.
    pub fn event_now(&self, event: gst::Event) -> bool {
        self.src.push_event(event)
    }

    /// Queues the events that come before frames.
    pub fn start(&mut self, caps: usize) {
        self.event(gst::event::StreamStart::new("camera"));
        self.event(gst::event::Caps::new(&CAPS[caps].parse().unwrap()));
        self.event(gst::event::Segment::new(&gst::FormattedSegment::<
            gst::ClockTime,
        >::new()));
    }

    /// Whether the streaming thread has done all steps.
    pub fn is_done(&self) -> bool {
        self.pending == 0
    }

    /// Down and up again, with the rest of the pipeline; not while a step is pending.
    pub fn restart(&self) {
        for active in [false, true] {
            for pad in [&self.src, &self.screen] {
                pad.set_active(active).unwrap();
            }
        }
    }

    /// Waits shortly for the next step. Returns whether it is done.
    pub fn wait(&mut self) -> bool {
        match self.done.recv_timeout(Duration::from_millis(5)) {
            Ok(done) => {
                self.results.push(done);
                self.pending -= 1;
                self.progress = Instant::now();
                true
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let still = self.progress.elapsed();
                assert!(still < WATCHDOG, "the streaming thread hangs");
                false
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the streaming thread is gone"),
        }
    }

    /// Waits until the streaming thread has done all steps.
    pub fn wait_all(&mut self) {
        while !self.is_done() {
            self.wait();
        }
    }

    /// The results of the steps since the last call.
    pub fn take_results(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.results)
    }

    /// The frames that left, as in `taken`.
    pub fn shown_frames(&self) -> Vec<(gst::ClockTime, usize)> {
        let shown = self.shown.lock().unwrap();
        shown.iter().map(|s| (s.pts, s.memory)).collect()
    }

    /// Fails unless the frames that left are the pushed ones, and clears both lists. If frames are
    /// `held`, they may have other memory and, unless they are `lost`, come later. Not while a step
    /// is pending.
    pub fn check_shown(&self, held: bool, lost: bool) -> Vec<gst::Structure> {
        let shown = std::mem::take(&mut *self.shown.lock().unwrap());
        let mut taken = self.taken.lock().unwrap();
        if held {
            let pts: Vec<_> = shown.iter().map(|s| s.pts).collect();
            let taken_pts: Vec<_> = taken.drain(..shown.len()).map(|(pts, _)| pts).collect();
            assert_eq!(pts, taken_pts);
            if lost {
                taken.clear();
            }
        } else {
            let frames: Vec<_> = shown.iter().map(|s| (s.pts, s.memory)).collect();
            assert_eq!(frames, std::mem::take(&mut *taken));
        }
        shown.into_iter().flat_map(|s| s.descriptions).collect()
    }

    /// Number of free buffers of the pool.
    pub fn in_pool(&self) -> usize {
        let all: Vec<_> = std::iter::from_fn(|| acquire(&self.pool).ok()).collect();
        all.len()
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.steps = None;
        if let Some(thread) = self.thread.take().filter(|_| !thread::panicking()) {
            thread.join().unwrap();
        }
        let _ = self.src.set_active(false);
        let _ = self.pool.set_active(false);
    }
}

/// A free buffer; an error if there is none, because a camera would lose the picture.
fn acquire(pool: &gst::BufferPool) -> Result<gst::Buffer, gst::FlowError> {
    let flags = gst::BufferPoolAcquireFlags::DONTWAIT;
    pool.acquire_buffer(Some(&gst::BufferPoolAcquireParams::with_flags(flags)))
}

fn frame(pool: &gst::BufferPool, pts: gst::ClockTime, discont: bool) -> gst::Buffer {
    let mut buffer = acquire(pool).expect("the camera has a buffer");
    let header = buffer.get_mut().unwrap();
    header.set_pts(pts);
    header.set_duration(gst::ClockTime::from_mseconds(100));
    if discont {
        header.set_flags(gst::BufferFlags::DISCONT);
    }
    buffer
}
