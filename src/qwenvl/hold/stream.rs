//! Buffers that are held until they are described, and the wait of the source pad's task.
//!
//! Only the task pushes. No other thread waits, with one exception: the streaming thread waits
//! while more video than its limit may leave and has not left.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::monitor::Monitor;
use super::queue::{HoldQueue, Next, StreamPosition};
use super::sync::{AtomicBool, now};
use crate::message::RequestId;

/// An entry of the hold queue.
#[derive(Debug)]
pub(in crate::qwenvl) enum Item {
    /// A buffer, and the running time at its end.
    Buffer(gst::Buffer, Option<gst::ClockTime>),
    Event(gst::Event),
}

type Flow = Result<gst::FlowSuccess, gst::FlowError>;

struct State {
    queue: HoldQueue<Item, gst::Structure>,
    flushing: bool,
    /// Downstream's last flow return.
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

    /// Takes all entries out.
    fn clear(&mut self) -> HoldQueue<Item, gst::Structure> {
        std::mem::take(&mut self.queue)
    }
}

/// The hold queue with its lock; see the module.
pub(in crate::qwenvl) struct HeldBuffers {
    state: Monitor<State>,
    /// Whether the source pad is active and pushes from its task.
    active: AtomicBool,
}

impl Default for HeldBuffers {
    fn default() -> Self {
        Self {
            state: Monitor::new(State::new()),
            active: AtomicBool::new(false),
        }
    }
}

impl HeldBuffers {
    /// Whether the video is held.
    pub(in crate::qwenvl) fn active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// What `change` returns is dropped without the lock: to free a buffer may call code of its
    /// pool.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) {
        if self.active() {
            self.state.change(change);
        }
    }

    /// How many buffers and events are held.
    pub(in crate::qwenvl) fn len(&self) -> usize {
        self.state.lock().queue.len()
    }

    // The streaming thread.

    /// Appends a frame, which leaves at `deadline` at the latest. Waits first while video of
    /// `limit` or longer is held that may leave.
    ///
    /// # Errors
    ///
    /// Downstream's last flow error, or `Flushing` during a flush and after a stop.
    pub(in crate::qwenvl) fn push(
        &self,
        frame: Item,
        position: Option<StreamPosition>,
        deadline: Option<Instant>,
        limit: Duration,
    ) -> Flow {
        let mut state = self.state.lock();
        loop {
            if !self.active() || state.flushing {
                return Err(gst::FlowError::Flushing);
            }
            state.flow?;
            if !state.queue.is_full(now(), limit) {
                break;
            }
            state = self.state.wait(state);
        }
        state.queue.push(frame, position, deadline);
        drop(state);
        self.state.wake();
        Ok(gst::FlowSuccess::Ok)
    }

    /// Appends an event, which leaves behind the frames before it.
    ///
    /// # Errors
    ///
    /// As [`Self::push`].
    pub(in crate::qwenvl) fn event(&self, event: gst::Event) -> Flow {
        let mut state = self.state.lock();
        if !self.active() || state.flushing {
            return Err(gst::FlowError::Flushing);
        }
        state.flow?;
        state.queue.push(Item::Event(event), None, None);
        drop(state);
        self.state.wake();
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

    /// A window opens, with these requests. `end` is its last possible running time, in
    /// nanoseconds.
    pub(in crate::qwenvl) fn opened(
        &self,
        window: u64,
        requests: &[u64],
        start: StreamPosition,
        end: u64,
    ) {
        self.change(|state| state.queue.opened(window, requests, start, end));
    }

    /// A window is closed; frames wait for its answers for `timeout` at most, `None` being for
    /// ever.
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
        let _before = std::mem::replace(&mut *self.state.lock(), State::new());
        self.active.store(true, Ordering::Release);
    }

    pub(super) fn stop(&self) {
        self.active.store(false, Ordering::Release);
        // Under the lock: another thread has either not read `active` yet or is in its wait.
        let _held = self.state.change(State::clear);
    }

    /// Drops all entries and pauses the task.
    pub(super) fn flush_start(&self) {
        self.change(|state| {
            state.flushing = true;
            state.clear()
        });
    }

    pub(super) fn flush_stop(&self) {
        self.change(|state| (state.flushing, state.flow) = (false, Ok(gst::FlowSuccess::Ok)));
    }

    /// Downstream refused a buffer: drops all entries, and takes none until a flush.
    pub(super) fn refused(&self, why: gst::FlowError) {
        self.change(|state| {
            state.flow = Err(why);
            state.clear()
        });
    }

    /// Waits for the next item to push; `None` if the task has to pause.
    pub(super) fn next(&self) -> Option<(Item, Vec<gst::Structure>)> {
        let mut state = self.state.lock();
        loop {
            if !self.active() || state.flushing || state.flow.is_err() {
                return None;
            }
            let until = match state.queue.next(now()) {
                Next::Push(item, descriptions) => {
                    drop(state);
                    self.state.wake();
                    return Some((item, descriptions));
                }
                Next::WaitUntil(until) => Some(until),
                Next::Wait => None,
            };
            state = self.state.wait_until(state, until).0;
        }
    }
}
