//! The state that the threads share in a run: one session from READY→PAUSED to PAUSED→READY.
//!
//! Two queues lead to the worker. `work` is in stream order and bounded; `control` overtakes it:
//! answers, flushes, the loaded model. All waits are for one condition variable, so an event that
//! can end a wait wakes every waiting thread.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::event;
use qwen3_vl_core::failure::Failure;

use super::monitor::Monitor;
use super::sample::Sample;
use super::stats::{EngineUse, Stats, count};
use super::sync::now;
use super::text::Mark;
use crate::message::RequestId;

/// Sampled frames that may wait for the worker: four seconds of video at two frames a second.
const MAX_WORK: usize = 8;
/// The same while the worker is in a handler for longer than [`HANDLER_TIMEOUT`]. Each further
/// frame waits that long.
const MAX_WORK_IN_HANDLER: usize = 2 * MAX_WORK;

/// How long the streaming thread, or a state change, waits for one call of an application's
/// handler. The handler may itself wait for them: to end or seek a source takes the source's stream
/// lock, and an event to the pipeline takes its state lock.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(3);

/// Work for the worker, in the order of the stream.
pub(super) enum Work {
    /// A sampled frame.
    Frame(Box<Sample>),
    /// No frame comes before this running time.
    Gap { to: gst::ClockTime, part: u64 },
    /// The stream ends or breaks at this running time, and `part` follows: open windows close.
    Break {
        at: Option<gst::ClockTime>,
        part: u64,
    },
    /// An event of the text stream, behind the texts of the windows before it.
    Mark(Mark),
}

/// Commands for the worker, which overtake its work.
pub(super) enum Control {
    /// The model is loaded.
    Ready(Arc<dyn Backend>),
    /// An event of a request, from the backend.
    Event(RequestId, event::Event),
    /// The backend lost a window that has no request yet.
    Lost(u64, Failure),
    /// The stream was flushed; this is the new epoch.
    Flush(u64),
    /// `eos-timeout` has passed.
    Expire,
    /// The element failed, with this message.
    Abort(String),
    /// The element stops.
    Stop,
}

/// The worker's next entry of its queues.
pub(super) enum Next {
    Control(Control),
    Work(Work),
    /// Its deadline passed first.
    Nothing,
}

/// Why a wait ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupted {
    /// By a flush or a state change.
    Flushing,
    /// By an error, which has been posted.
    Failed,
}

impl From<Interrupted> for gst::FlowError {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::Flushing => Self::Flushing,
            Interrupted::Failed => Self::Error,
        }
    }
}

/// How a wait for the last answers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// Every window has ended.
    Yes,
    /// The timeout passed.
    TimedOut,
    /// A handler of the application does not return.
    InHandler,
}

#[derive(Default)]
struct State {
    work: VecDeque<Work>,
    control: VecDeque<Control>,
    /// Raised by every flush. Answers of an older epoch are dropped.
    epoch: u64,
    /// The worker's epoch: lower than `epoch` until it has ended the windows from before the flush.
    reached: u64,
    flushing: bool,
    stopping: bool,
    /// A thread has taken it on to post an error.
    claimed: bool,
    /// The error has been posted.
    failed: bool,
    /// Set while the model is loaded and the worker, which owns it, runs.
    backend: Option<Weak<dyn Backend>>,
    /// The worker has ended every window.
    finished: bool,
    /// The worker has ended and freed all that it held.
    gone: bool,
    /// When the worker called a handler of the bus or of a signal, which has not returned.
    handler_since: Option<Instant>,
    /// The worker handles an entry of a queue.
    busy: bool,
    /// Windows that the worker has opened and not ended.
    outstanding: usize,
    /// Descriptions for the next buffer.
    attach: Vec<gst::Structure>,
    stats: Stats,
}

impl State {
    fn interrupted(&self) -> Option<Interrupted> {
        if self.failed {
            Some(Interrupted::Failed)
        } else if self.flushing || self.stopping {
            Some(Interrupted::Flushing)
        } else {
            None
        }
    }

    /// Frames in `work`; other entries do not count.
    fn frames_waiting(&self) -> usize {
        let is_frame = |work: &&Work| matches!(work, Work::Frame(_));
        self.work.iter().filter(is_frame).count()
    }

    /// When a wait that began at `began` gives up on a handler; `None` if none runs.
    fn handler_deadline(&self, began: Instant) -> Option<Instant> {
        self.handler_since?.max(began).checked_add(HANDLER_TIMEOUT)
    }

    fn idle(&self) -> bool {
        self.work.is_empty() && self.control.is_empty() && !self.busy && self.outstanding == 0
    }
}

/// State and waits of one run; see the module.
#[derive(Default)]
pub(super) struct Session(Monitor<State>);

impl Session {
    // The streaming thread.

    /// Takes the descriptions for the next buffer, and counts that buffer.
    pub(super) fn take_descriptions(&self) -> Result<Vec<gst::Structure>, Interrupted> {
        let mut state = self.0.lock();
        count(&mut state.stats.frames);
        match state.interrupted() {
            Some(why) => Err(why),
            None => Ok(std::mem::take(&mut state.attach)),
        }
    }

    /// Waits until the model is loaded.
    pub(super) fn wait_ready(&self) -> Result<(), Interrupted> {
        let mut state = self.0.lock();
        loop {
            if let Some(why) = state.interrupted() {
                return Err(why);
            }
            if state.backend.is_some() {
                return Ok(());
            }
            state = self.0.wait(state);
        }
    }

    /// Whether the work queue takes a frame now; counts a skipped frame if not.
    pub(super) fn has_free_slot(&self) -> bool {
        let mut state = self.0.lock();
        let free = state.frames_waiting() < MAX_WORK;
        if !free {
            count(&mut state.stats.skipped);
        }
        free
    }

    /// Hands a frame to the worker. If the work queue is full, waits (`wait`) or skips the frame.
    /// While a handler of the application blocks the worker the queue takes [`MAX_WORK_IN_HANDLER`]
    /// frames.
    pub(super) fn push_frame(&self, sample: Box<Sample>, wait: bool) -> Result<(), Interrupted> {
        let mut began = None;
        let mut most = MAX_WORK;
        let mut state = self.0.lock();
        loop {
            if let Some(why) = state.interrupted() {
                return Err(why);
            }
            let waiting = state.frames_waiting();
            if waiting < most {
                break;
            }
            if !wait {
                count(&mut state.stats.skipped);
                return Ok(());
            }
            let began = *began.get_or_insert_with(now);
            let handler = state.handler_deadline(began);
            let until = handler.filter(|_| waiting < MAX_WORK_IN_HANDLER);
            let in_time;
            (state, in_time) = self.0.wait_until(state, until);
            if !in_time {
                most = MAX_WORK_IN_HANDLER;
            }
        }
        count(&mut state.stats.sampled);
        state.work.push_back(Work::Frame(sample));
        drop(state);
        self.0.wake();
        Ok(())
    }

    /// Reports that the stream breaks or ends at this running time, and that `part` follows.
    /// Never waits.
    pub(super) fn push_break(&self, at: Option<gst::ClockTime>, part: u64) {
        self.0.change(|state| {
            if state.interrupted().is_some() {
                return;
            }
            // Breaks in a row, as at the start of a stream, are merged.
            if let Some(Work::Break { part: last, .. }) = state.work.back_mut() {
                *last = part;
            } else {
                state.work.push_back(Work::Break { at, part });
            }
        });
    }

    /// Reports that no frame of `part` comes before this running time. Never waits.
    pub(super) fn push_gap(&self, to: gst::ClockTime, part: u64) {
        self.0.change(|state| {
            if state.interrupted().is_some() {
                return;
            }
            // Gaps in a row are merged, so that they do not pile up.
            if let Some(Work::Gap { .. }) = state.work.back() {
                state.work.pop_back();
            }
            state.work.push_back(Work::Gap { to, part });
        });
    }

    /// Queues an event of the text stream behind the work before it. Never waits.
    pub(super) fn push_mark(&self, mark: Mark) {
        self.0.change(|state| {
            if state.interrupted().is_none() {
                state.work.push_back(Work::Mark(mark));
            }
        });
    }

    /// Waits until every window has ended; at most for `timeout`, `None` being for ever.
    pub(super) fn drain(&self, timeout: Option<Duration>) -> Result<Drained, Interrupted> {
        let began = now();
        let deadline = timeout.and_then(|timeout| began.checked_add(timeout));
        let mut state = self.0.lock();
        loop {
            if let Some(why) = state.interrupted() {
                return Err(why);
            }
            if state.idle() {
                return Ok(Drained::Yes);
            }
            let first = deadline
                .into_iter()
                .chain(state.handler_deadline(began))
                .min();
            let in_time;
            (state, in_time) = self.0.wait_until(state, first);
            if !in_time {
                let over = first == deadline;
                return Ok(if over {
                    Drained::TimedOut
                } else {
                    Drained::InHandler
                });
            }
        }
    }

    /// After a failure: waits until the worker has ended every window, or until a flush or a stop,
    /// which end them too; at most for `timeout`. `false` if that passed.
    pub(super) fn wait_finished(&self, timeout: Duration) -> bool {
        let deadline = now().checked_add(timeout);
        let mut state = self.0.lock();
        let mut in_time = true;
        while in_time && !(state.finished || state.flushing || state.stopping) {
            (state, in_time) = self.0.wait_until(state, deadline);
        }
        in_time
    }

    /// After [`Self::stop`]: waits for the end of the worker, at most for `timeout`, because it may
    /// compute or free memory. If it is in a handler the limit is [`HANDLER_TIMEOUT`]: the handler
    /// may wait for the state lock that the state change holds. Returns whether the worker has
    /// ended.
    pub(super) fn wait_gone(&self, timeout: Duration) -> bool {
        let began = now();
        let mut deadline = began.checked_add(timeout);
        let mut state = self.0.lock();
        let mut in_time = true;
        while in_time && !state.gone {
            let handler = state.handler_since.and(began.checked_add(HANDLER_TIMEOUT));
            (state, in_time) = self.0.wait_until(state, handler.or(deadline));
            if handler.is_some() {
                deadline = now().checked_add(timeout);
            }
        }
        state.gone
    }

    /// Whether [`Self::stop`] was called.
    pub(super) fn is_stopping(&self) -> bool {
        self.0.lock().stopping
    }

    /// `eos-timeout` has passed: drops the frames in the queue, and the worker drops its windows.
    pub(super) fn expire(&self) {
        // Frames are freed without the lock: that may call code of their pool.
        let _frames = self.0.change(|state| {
            let lost = state.frames_waiting() as u64;
            state.stats.skipped = state.stats.skipped.saturating_add(lost);
            let work = std::mem::take(&mut state.work).into_iter();
            let (frames, rest) = work.partition(|work| matches!(work, Work::Frame(_)));
            state.work = rest;
            state.control.push_back(Control::Expire);
            let frames: VecDeque<Work> = frames;
            frames
        });
    }

    /// Ends all waits and drops the work and descriptions of the stream before the flush.
    pub(super) fn flush_start(&self) {
        // Dropped without the lock.
        let _before = self.0.change(|state| {
            state.flushing = true;
            state.epoch = state.epoch.wrapping_add(1);
            let epoch = state.epoch;
            state.control.push_front(Control::Flush(epoch));
            (
                std::mem::take(&mut state.work),
                std::mem::take(&mut state.attach),
            )
        });
    }

    /// Waits until the worker has ended the windows from before the flush, at most for `timeout`;
    /// then takes frames again. `false` if the timeout passed.
    pub(super) fn flush_stop(&self, timeout: Duration) -> bool {
        let deadline = now().checked_add(timeout);
        let mut state = self.0.lock();
        let mut in_time = true;
        while in_time && state.reached < state.epoch && !(state.finished || state.stopping) {
            (state, in_time) = self.0.wait_until(state, deadline);
        }
        state.flushing = false;
        drop(state);
        self.0.wake();
        in_time
    }

    /// Ends all waits for good and stops the worker.
    pub(super) fn stop(&self) {
        let _work = self.0.change(|state| {
            state.stopping = true;
            state.control.push_front(Control::Stop);
            std::mem::take(&mut state.work)
        });
    }

    // Any thread.

    /// Whether this is the first failure: then the caller posts it, and calls [`Self::fail`].
    pub(super) fn claim_failure(&self) -> bool {
        let mut state = self.0.lock();
        !std::mem::replace(&mut state.claimed, true) && !state.stopping
    }

    /// The element failed, because of `why`: ends all waits and makes the worker drop its windows.
    pub(super) fn fail(&self, why: &str) {
        let _work = self.0.change(|state| {
            state.failed = true;
            state.control.push_front(Control::Abort(why.into()));
            std::mem::take(&mut state.work)
        });
    }

    /// The counters.
    pub(super) fn stats(&self) -> Stats {
        self.0.lock().stats.clone()
    }

    /// Use of the engine. The lock is held meanwhile: the worker clears `backend` under it before
    /// it drops its own reference, so the caller never drops the last one. To drop an engine takes
    /// long.
    pub(super) fn engine_use(&self) -> EngineUse {
        let state = self.0.lock();
        let Some(backend) = &state.backend else {
            return EngineUse::default();
        };
        EngineUse {
            kv_blocks: backend.upgrade().map_or(0, |backend| backend.kv_blocks()),
            elements: backend.strong_count(),
        }
    }

    /// Changes the counters.
    pub(super) fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.0.lock().stats);
    }

    // Loader and backend.

    /// The model is loaded. Without a worker the backend is dropped, outside the lock.
    pub(super) fn ready(&self, backend: Arc<dyn Backend>) {
        let mut backend = Some(backend);
        self.0.change(|state| {
            if state.finished {
                return;
            }
            state.backend = backend.as_ref().map(Arc::downgrade);
            state.control.extend(backend.take().map(Control::Ready));
        });
    }

    /// Queues an event of a request for the worker.
    pub(super) fn event(&self, request: RequestId, event: event::Event) {
        self.0
            .change(|state| state.control.push_back(Control::Event(request, event)));
    }

    /// Queues the loss of a window without requests for the worker.
    pub(super) fn lost(&self, window: u64, failure: Failure) {
        self.0
            .change(|state| state.control.push_back(Control::Lost(window, failure)));
    }

    // The worker.

    /// What to do next: control first, then work that `admits` takes. Waits for it until `until`,
    /// if given.
    pub(super) fn next(
        &self,
        outstanding: usize,
        until: Option<Instant>,
        admits: impl Fn(&Work) -> bool,
    ) -> Next {
        let mut state = self.0.lock();
        state.outstanding = outstanding;
        state.stats.outstanding = outstanding as u64;
        state.busy = false;
        self.0.wake();
        loop {
            if let Some(control) = state.control.pop_front() {
                state.busy = true;
                return Next::Control(control);
            }
            if state.work.front().is_some_and(&admits)
                && let Some(work) = state.work.pop_front()
            {
                state.busy = true;
                drop(state);
                self.0.wake();
                return Next::Work(work);
            }
            let in_time;
            (state, in_time) = self.0.wait_until(state, until);
            if !in_time {
                state.busy = true;
                return Next::Nothing;
            }
        }
    }

    /// The worker calls a handler of the application, or is back from it.
    pub(super) fn set_in_handler(&self, in_handler: bool) {
        let since = in_handler.then(now);
        self.0.change(|state| state.handler_since = since);
    }

    /// The worker has ended and freed all that it held.
    pub(super) fn gone(&self) {
        self.0.change(|state| state.gone = true);
    }

    /// The worker has ended every window; it may still hold the engine.
    pub(super) fn finished(&self) {
        // A command may hold an engine, which must not be dropped under the lock.
        let _left = self.0.change(|state| {
            state.finished = true;
            state.busy = false;
            state.outstanding = 0;
            state.backend = None;
            std::mem::take(&mut state.control)
        });
    }

    /// The worker has ended every window from before this epoch.
    pub(super) fn reached(&self, epoch: u64) {
        self.0.change(|state| state.reached = epoch);
    }

    /// The stream's epoch.
    pub(super) fn epoch(&self) -> u64 {
        self.0.lock().epoch
    }

    /// Puts a description on the next buffer, unless it is of an older epoch.
    pub(super) fn attach(&self, epoch: u64, description: gst::Structure) {
        let mut state = self.0.lock();
        if state.epoch == epoch {
            state.attach.push(description);
        }
    }
}
