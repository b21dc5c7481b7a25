//! What the threads share while the element runs: one session from READY→PAUSED to PAUSED→READY.
//!
//! Two queues lead to the worker. `work` is in stream order and bounded; `control` overtakes it:
//! answers, flushes, the loaded model. Every wait in the element is a wait for this one condition
//! variable, so whatever can end a wait wakes all of them.

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

/// Sampled frames that may wait for the worker. At two a second they are seconds of video.
const MAX_WORK: usize = 8;
/// As many more, one by one, while code of the application keeps the worker.
const MAX_KEPT_WORK: usize = 2 * MAX_WORK;

/// How long the streaming thread, or a state change, waits for one run of code of the application, which
/// may itself wait for them: to tell a source to end or to seek takes that source's stream lock, and
/// any event to the pipeline its state lock.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(3);

/// What the worker does in the order of the stream.
pub(super) enum Work {
    /// A sampled frame.
    Frame(Box<Sample>),
    /// Nothing comes until this running time.
    Gap { to: gst::ClockTime, part: u64 },
    /// The stream ends or breaks here, at this running time, and another part of it follows: windows
    /// close.
    Break {
        at: Option<gst::ClockTime>,
        part: u64,
    },
    /// An event of the text stream, which stands behind the windows before it.
    Mark(Mark),
}

/// What the worker does at once.
pub(super) enum Control {
    /// The model is loaded.
    Ready(Arc<dyn Backend>),
    /// Something happened to a request at the backend.
    Event(RequestId, event::Event),
    /// The backend lost a window that has not been asked.
    Lost(u64, Failure),
    /// The stream was flushed; this is the new epoch.
    Flush(u64),
    /// The time for the last answers is over.
    Expire,
    /// The element failed: this is why.
    Abort(String),
    /// The element stops.
    Stop,
}

/// What the worker takes from its queues.
pub(super) enum Next {
    Control(Control),
    Work(Work),
    /// Nothing until the time it gave.
    Nothing,
}

/// Why a wait ended without what was waited for.
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
    /// All are answered or dropped.
    Yes,
    /// The time is over.
    TimedOut,
    /// Code of the application does not return.
    Kept,
}

#[derive(Default)]
struct State {
    work: VecDeque<Work>,
    control: VecDeque<Control>,
    /// Raised by every flush. What belongs to an older one must not come out.
    epoch: u64,
    /// The epoch that the worker is in: behind, until it has ended the windows of the one before.
    reached: u64,
    flushing: bool,
    stopping: bool,
    /// Somebody posts an error.
    claimed: bool,
    /// The error has been posted.
    failed: bool,
    /// There once the model is loaded, until the worker is gone, which owns it.
    backend: Option<Weak<dyn Backend>>,
    /// The worker has ended every window.
    finished: bool,
    /// The worker is gone, and what it held is free.
    gone: bool,
    /// Since when the worker runs code of the application: a handler of the bus or of a signal.
    telling: Option<Instant>,
    /// Whether the worker has something in its hands.
    busy: bool,
    /// Windows that the worker has opened and not yet ended.
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

    /// A break does not count.
    fn frames_waiting(&self) -> usize {
        let is_frame = |work: &&Work| matches!(work, Work::Frame(_));
        self.work.iter().filter(is_frame).count()
    }

    /// While code of the application runs: until when a wait that began then lasts for it.
    fn kept_until(&self, began: Instant) -> Option<Instant> {
        self.telling?.max(began).checked_add(HANDLER_TIMEOUT)
    }

    fn idle(&self) -> bool {
        self.work.is_empty() && self.control.is_empty() && !self.busy && self.outstanding == 0
    }
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Session(Monitor<State>);

impl Session {
    // The streaming thread.

    /// The descriptions that the next buffer shall carry.
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

    /// Whether a frame that does not wait would be taken. Counts one that would not.
    pub(super) fn has_room(&self) -> bool {
        let mut state = self.0.lock();
        let room = state.frames_waiting() < MAX_WORK;
        if !room {
            count(&mut state.stats.skipped);
        }
        room
    }

    /// Hands a frame to the worker. If its queue is full, waits or skips the frame. Code of the
    /// application that keeps the worker for long makes room for a few more.
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
            let kept = state.kept_until(began);
            let until = kept.filter(|_| waiting < MAX_KEPT_WORK);
            let in_time;
            (state, in_time) = self.0.wait_until(state, until);
            if !in_time {
                most = MAX_KEPT_WORK;
            }
        }
        count(&mut state.stats.sampled);
        state.work.push_back(Work::Frame(sample));
        drop(state);
        self.0.wake();
        Ok(())
    }

    /// Says that the stream breaks or ends at this running time, and that `part` is what follows.
    /// Never waits.
    pub(super) fn push_break(&self, at: Option<gst::ClockTime>, part: u64) {
        self.0.change(|state| {
            if state.interrupted().is_some() {
                return;
            }
            // Several in a row, as at the start of a stream, are one.
            if let Some(Work::Break { part: last, .. }) = state.work.back_mut() {
                *last = part;
            } else {
                state.work.push_back(Work::Break { at, part });
            }
        });
    }

    /// Says that no frame of `part` comes before this running time. Never waits.
    pub(super) fn push_gap(&self, to: gst::ClockTime, part: u64) {
        self.0.change(|state| {
            if state.interrupted().is_some() {
                return;
            }
            // A stream may have nothing but gaps for long.
            if let Some(Work::Gap { .. }) = state.work.back() {
                state.work.pop_back();
            }
            state.work.push_back(Work::Gap { to, part });
        });
    }

    /// Hands the text stream an event in its order. Never waits.
    pub(super) fn push_mark(&self, mark: Mark) {
        self.0.change(|state| {
            if state.interrupted().is_none() {
                state.work.push_back(Work::Mark(mark));
            }
        });
    }

    /// Waits until every window has ended, for at most `timeout`, if there is one.
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
            let first = deadline.into_iter().chain(state.kept_until(began)).min();
            let in_time;
            (state, in_time) = self.0.wait_until(state, first);
            if !in_time {
                let over = first == deadline;
                return Ok(if over {
                    Drained::TimedOut
                } else {
                    Drained::Kept
                });
            }
        }
    }

    /// After a failure: waits until the worker has ended every window, unless a flush or a stop
    /// comes, which ends them as well; at most for `timeout`. Whether it has not timed out.
    pub(super) fn wait_finished(&self, timeout: Duration) -> bool {
        let deadline = now().checked_add(timeout);
        let mut state = self.0.lock();
        let mut in_time = true;
        while in_time && !(state.finished || state.flushing || state.stopping) {
            (state, in_time) = self.0.wait_until(state, deadline);
        }
        in_time
    }

    /// After [`Self::stop`]: waits until the worker is gone, at most for `timeout`, because it may compute
    /// or free memory. Code of the application that it runs has [`HANDLER_TIMEOUT`]: it may wait for a
    /// lock that the state change holds, as sending an event to the pipeline does. Whether it is gone.
    pub(super) fn wait_gone(&self, timeout: Duration) -> bool {
        let began = now();
        let mut deadline = began.checked_add(timeout);
        let mut state = self.0.lock();
        let mut in_time = true;
        while in_time && !state.gone {
            let kept = state.telling.and(began.checked_add(HANDLER_TIMEOUT));
            (state, in_time) = self.0.wait_until(state, kept.or(deadline));
            if kept.is_some() {
                deadline = now().checked_add(timeout);
            }
        }
        state.gone
    }

    /// Whether [`Self::stop`] was called.
    pub(super) fn is_stopping(&self) -> bool {
        self.0.lock().stopping
    }

    /// The time for the last answers is over, and for frames that have not even become windows.
    pub(super) fn expire(&self) {
        self.0.change(|state| {
            let lost = state.frames_waiting() as u64;
            state.stats.skipped = state.stats.skipped.saturating_add(lost);
            state.work.retain(|work| !matches!(work, Work::Frame(_)));
            state.control.push_back(Control::Expire);
        });
    }

    /// Ends all waits and forgets what belongs to the stream before the flush.
    pub(super) fn flush_start(&self) {
        self.0.change(|state| {
            state.flushing = true;
            state.epoch = state.epoch.wrapping_add(1);
            state.work.clear();
            state.attach.clear();
            let epoch = state.epoch;
            state.control.push_front(Control::Flush(epoch));
        });
    }

    /// Frames are welcome again, when the worker has ended everything of before the flush, or
    /// `timeout` is over. Whether it has not timed out.
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

    /// Ends all waits for good and tells the worker to finish.
    pub(super) fn stop(&self) {
        self.0.change(|state| {
            state.stopping = true;
            state.work.clear();
            state.control.push_front(Control::Stop);
        });
    }

    // Any thread.

    /// Whether this failure is the first one, which is the one to post before [`Self::fail`].
    pub(super) fn claim_failure(&self) -> bool {
        let mut state = self.0.lock();
        !std::mem::replace(&mut state.claimed, true) && !state.stopping
    }

    /// The element failed, because of `why`: everybody gives up.
    pub(super) fn fail(&self, why: &str) {
        self.0.change(|state| {
            state.failed = true;
            state.work.clear();
            state.control.push_front(Control::Abort(why.into()));
        });
    }

    /// The counters.
    pub(super) fn stats(&self) -> Stats {
        self.0.lock().stats.clone()
    }

    /// What is known of the engine. With the lock held, so that the worker, which forgets it under
    /// the same lock, and never the caller is the last one to hold it: its end takes a while.
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

    /// The model is loaded. If the worker is gone, it is for nobody.
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

    /// Something happened to a request.
    pub(super) fn event(&self, request: RequestId, event: event::Event) {
        self.0
            .change(|state| state.control.push_back(Control::Event(request, event)));
    }

    /// A window that has not been asked is lost.
    pub(super) fn lost(&self, window: u64, failure: Failure) {
        self.0
            .change(|state| state.control.push_back(Control::Lost(window, failure)));
    }

    // The worker.

    /// What to do next: control first, then work that `admits` lets in. Waits for it until then, if there
    /// is such a time.
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

    /// The worker begins or ends to run code of the application.
    pub(super) fn telling(&self, telling: bool) {
        let since = telling.then(now);
        self.0.change(|state| state.telling = since);
    }

    /// The worker is gone, and so is what it held.
    pub(super) fn gone(&self) {
        self.0.change(|state| state.gone = true);
    }

    /// The worker is gone, but for the engine that it may still hold.
    pub(super) fn finished(&self) {
        // What is left may hold an engine, which does not end under the lock.
        let _left = self.0.change(|state| {
            state.finished = true;
            state.busy = false;
            state.outstanding = 0;
            state.backend = None;
            std::mem::take(&mut state.control)
        });
    }

    /// The worker has ended everything of before this epoch.
    pub(super) fn reached(&self, epoch: u64) {
        self.0.change(|state| state.reached = epoch);
    }

    /// The epoch that the stream is in now.
    pub(super) fn epoch(&self) -> u64 {
        self.0.lock().epoch
    }

    /// Puts a description on the next buffer, unless it belongs to an older epoch.
    pub(super) fn attach(&self, epoch: u64, description: gst::Structure) {
        let mut state = self.0.lock();
        if state.epoch == epoch {
            state.attach.push(description);
        }
    }
}
