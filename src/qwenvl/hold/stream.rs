//! Buffers that are held until they are described, and the wait of the source pad's task.
//!
//! Only the task pushes. The other threads do not wait, with one exception: the streaming thread
//! waits while more video than its limit could leave and has not left.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::monitor::Monitor;
use super::queue::{HoldQueue, Next, StreamPosition};
use super::sync::{AtomicBool, now};
use crate::message::RequestId;

/// What is held.
#[derive(Debug)]
pub(in crate::qwenvl) enum Item {
    /// A frame, and the running time at its end.
    Buffer(gst::Buffer, Option<gst::ClockTime>),
    Event(gst::Event),
}

type Flow = Result<gst::FlowSuccess, gst::FlowError>;

struct State {
    queue: HoldQueue<Item, gst::Structure>,
    flushing: bool,
    /// What downstream said last.
    flow: Flow,
}

impl State {
    fn new() -> Self {
        Self {
            queue: HoldQueue::default(),
            flushing: false,
            flow: Ok(gst::FlowSuccess::Ok),
        }
    }
}

/// See the module's text.
pub(in crate::qwenvl) struct HeldBuffers {
    held: Monitor<State>,
    /// Whether the source pad is active and pushes from its task.
    active: AtomicBool,
}

impl Default for HeldBuffers {
    fn default() -> Self {
        Self {
            held: Monitor::new(State::new()),
            active: AtomicBool::new(false),
        }
    }
}

impl HeldBuffers {
    /// Whether the video is held.
    pub(in crate::qwenvl) fn active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        if self.active() {
            self.held.change(change);
        }
    }

    /// How many buffers and events are held.
    pub(in crate::qwenvl) fn len(&self) -> usize {
        self.held.lock().queue.len()
    }

    // The streaming thread.

    /// Takes a frame, which leaves at `deadline` at the latest; waits first while as much video as
    /// `limit` is held that could leave.
    ///
    /// # Errors
    ///
    /// What downstream said to the last push, or that the element is flushing.
    pub(in crate::qwenvl) fn push(
        &self,
        frame: Item,
        position: Option<StreamPosition>,
        deadline: Option<Instant>,
        limit: Duration,
    ) -> Flow {
        let mut state = self.held.lock();
        loop {
            if !self.active() || state.flushing {
                return Err(gst::FlowError::Flushing);
            }
            state.flow?;
            if !state.queue.is_full(now(), limit) {
                break;
            }
            state = self.held.wait(state);
        }
        state.queue.push(frame, position, deadline);
        drop(state);
        self.held.wake();
        Ok(gst::FlowSuccess::Ok)
    }

    /// Takes an event, which leaves behind the frames before it.
    ///
    /// # Errors
    ///
    /// As [`Self::push`].
    pub(in crate::qwenvl) fn event(&self, event: gst::Event) -> Flow {
        let mut state = self.held.lock();
        if !self.active() || state.flushing {
            return Err(gst::FlowError::Flushing);
        }
        state.flow?;
        state.queue.push(Item::Event(event), None, None);
        drop(state);
        self.held.wake();
        Ok(gst::FlowSuccess::Ok)
    }

    // The worker.

    /// No window will open before `to`.
    pub(in crate::qwenvl) fn advance_watermark(&self, to: StreamPosition) {
        self.change(|state| state.queue.advance_watermark(to));
    }

    /// No window will open any more.
    pub(in crate::qwenvl) fn end_watermark(&self) {
        self.advance_watermark(StreamPosition::END);
    }

    /// A window opens, with these requests, and will end at the running time `end` at the latest.
    pub(in crate::qwenvl) fn opened(
        &self,
        window: u64,
        requests: &[u64],
        start: StreamPosition,
        end: u64,
    ) {
        self.change(|state| state.queue.opened(window, requests, start, end));
    }

    /// A window waits for its answers; nothing waits for it longer than `timeout`, if there is one.
    pub(in crate::qwenvl) fn closed(&self, window: u64, timeout: Option<Duration>) {
        if let Some(until) = timeout.and_then(|timeout| now().checked_add(timeout)) {
            self.change(|state| state.queue.closed(window, until));
        }
    }

    /// A request ended, with its description if it has one.
    pub(in crate::qwenvl) fn ended(&self, request: RequestId, description: Option<gst::Structure>) {
        self.change(|state| state.queue.ended(request, description));
    }

    // The pad.

    pub(super) fn start(&self) {
        *self.held.lock() = State::new();
        self.active.store(true, Ordering::Release);
    }

    pub(super) fn stop(&self) {
        self.active.store(false, Ordering::Release);
        // Under the lock: a thread that waits either has not read `active` yet or is asleep.
        self.held.lock().queue = HoldQueue::default();
        self.held.wake();
    }

    /// Forgets everything and lets the task rest.
    pub(super) fn flush_start(&self) {
        self.change(|state| {
            state.flushing = true;
            state.queue = HoldQueue::default();
        });
    }

    pub(super) fn flush_stop(&self) {
        self.change(|state| (state.flushing, state.flow) = (false, Ok(gst::FlowSuccess::Ok)));
    }

    /// Downstream takes nothing more until it is flushed.
    pub(super) fn refused(&self, why: gst::FlowError) {
        self.change(|state| {
            state.flow = Err(why);
            state.queue = HoldQueue::default();
        });
    }

    /// Waits for what to push next; none if the task shall rest.
    pub(super) fn next(&self) -> Option<(Item, Vec<gst::Structure>)> {
        let mut state = self.held.lock();
        loop {
            if !self.active() || state.flushing || state.flow.is_err() {
                return None;
            }
            let until = match state.queue.next(now()) {
                Next::Push(item, descriptions) => {
                    drop(state);
                    self.held.wake();
                    return Some((item, descriptions));
                }
                Next::WaitUntil(until) => Some(until),
                Next::Wait => None,
            };
            state = self.held.wait_until(state, until).0;
        }
    }
}
