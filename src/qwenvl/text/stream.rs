//! The text pad's stream: the reports of the other threads, and the wait of the pad's task.
//!
//! Only the task pushes, and only the task waits: for the next text or event to push.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::monitor::Monitor;
use super::sync::{AtomicBool, now};
use super::timeline::{Out, Placing, Push, Timeline};
use crate::message::{RequestId, Segment};

/// A push of video that takes longer is stuck behind the text: a muxer with a short queue holds
/// back the video of a window until it has the text of that window, which needs that video.
const STUCK_AFTER: Duration = Duration::from_millis(500);

/// An event of the stream.
#[derive(Clone, Debug)]
pub(in crate::qwenvl) enum Mark {
    /// A segment, and before it, for a new stream, the start of a stream of this group. One mark,
    /// so that nothing is pushed between the two.
    Segment(Segment, Option<Option<gst::GroupId>>),
    Eos,
}

/// The pipeline's state, as far as the video's flow depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qwenvl) enum Phase {
    /// Not yet playing: a sink keeps its first buffer, and so the video, until all sinks have one.
    Preroll,
    Playing,
    /// The video stands still, so a push that does not return is not stuck.
    Paused,
}

struct State {
    timeline: Timeline<Mark>,
    phase: Phase,
    /// Number of the current pad.
    pad: u64,
    /// The pad's task is pushing.
    out: bool,
    flushing: bool,
    /// The peer takes nothing more.
    refused: bool,
    /// When the current push of video began.
    pushing: Option<Instant>,
    /// The task's wait ends when a push may be stuck, so the next push need not wake it for that.
    armed: bool,
}

impl State {
    /// The state of the current push, and when it will change for the worse.
    fn push(&self) -> (Push, Option<Instant>) {
        let free = match self.phase {
            Phase::Preroll => Push::Preroll,
            Phase::Playing | Phase::Paused => Push::Free,
        };
        let since = self.pushing.filter(|_| self.phase != Phase::Paused);
        let Some(since) = since else {
            return (free, None);
        };
        let so_far = now().saturating_duration_since(since);
        if so_far < STUCK_AFTER {
            (free, since.checked_add(STUCK_AFTER))
        } else if so_far < STUCK_AFTER.saturating_mul(2) {
            (
                Push::Stuck,
                since.checked_add(STUCK_AFTER.saturating_mul(2)),
            )
        } else {
            (Push::StillStuck, None)
        }
    }
}

/// The text stream with its lock; see the module.
pub(in crate::qwenvl) struct Text {
    state: Monitor<State>,
    /// Whether there is an active pad; without one reports are ignored.
    active: AtomicBool,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            state: Monitor::new(State {
                timeline: Timeline::new(Placing::Span),
                phase: Phase::Preroll,
                pad: 0,
                out: false,
                flushing: false,
                refused: false,
                pushing: None,
                armed: false,
            }),
            active: AtomicBool::new(false),
        }
    }
}

impl Text {
    /// Whether there is an active pad.
    pub(in crate::qwenvl) fn active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// `None` without an active pad.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> Option<R> {
        self.active().then(|| self.state.change(change))
    }

    // The application's thread.

    /// The pipeline changes its state.
    pub(in crate::qwenvl) fn set_phase(&self, phase: Phase) {
        self.state.change(|state| {
            state.phase = phase;
            // The time in PAUSED must not count for a push.
            state.pushing = state.pushing.map(|_| now());
        });
    }

    // The streaming thread.

    /// Appends an event of the stream.
    pub(in crate::qwenvl) fn mark(&self, mark: Mark) {
        let begins = match &mark {
            Mark::Segment(segment, _) => Some(segment.base().map_or(0, gst::ClockTime::nseconds)),
            Mark::Eos => None,
        };
        self.change(|state| state.timeline.mark(mark, begins));
    }

    /// How texts are placed from now on.
    pub(in crate::qwenvl) fn set_placing(&self, placing: Placing) {
        self.change(|state| state.timeline.set_placing(placing));
    }

    /// A push of video begins; `position` is the running time at the end of the buffer.
    pub(in crate::qwenvl) fn push_begins(&self, position: Option<gst::ClockTime>) {
        if !self.active() {
            return;
        }
        let mut state = self.state.lock();
        if let Some(position) = position {
            state.timeline.video(position.nseconds());
        }
        state.pushing = Some(now());
        let wake = state.timeline.due() || (state.timeline.waits() && !state.armed);
        drop(state);
        if wake {
            self.state.wake();
        }
    }

    /// The push of video has returned.
    pub(in crate::qwenvl) fn push_ends(&self) {
        if self.active() {
            self.state.lock().pushing = None;
        }
    }

    // The worker.

    /// No window will start before this running time.
    pub(in crate::qwenvl) fn advance_watermark(&self, to: gst::ClockTime) {
        self.change(|state| state.timeline.advance_watermark(to.nseconds()));
    }

    /// A window opens at this running time, with these requests.
    pub(in crate::qwenvl) fn opened(&self, window: u64, requests: &[u64], start: gst::ClockTime) {
        let start = start.nseconds();
        self.change(|state| state.timeline.opened(window, requests, start));
    }

    /// A request ended; with an answer, its text and the running time at its window's end. Returns
    /// whether a text was lost, because the peer is too slow.
    pub(in crate::qwenvl) fn ended(
        &self,
        request: RequestId,
        text: Option<(&str, gst::ClockTime)>,
    ) -> bool {
        let text = text.map(|(text, end)| (text.to_owned(), end.nseconds()));
        let lost = self.change(|state| {
            let before = state.timeline.lost;
            state.timeline.ended(request, text);
            state.timeline.lost > before
        });
        lost.unwrap_or_default()
    }

    // The pad.

    /// Starts the stream of a new pad. Returns the pad's number.
    pub(super) fn start(&self) -> u64 {
        let mut state = self.state.lock();
        state.timeline.flush();
        (state.flushing, state.refused, state.pushing) = (false, false, None);
        (state.pad, state.out) = (state.pad.wrapping_add(1), false);
        self.active.store(true, Ordering::Release);
        state.pad
    }

    /// The peer is a `splitmuxsink`: it needs texts and ignores GAPs.
    pub(super) fn needs_text(&self) {
        self.change(|state| state.timeline.needs_text());
    }

    /// The number of the current pad.
    pub(super) fn pad(&self) -> u64 {
        self.state.lock().pad
    }

    /// After [`Self::stop`]: waits for the end of the task's push, at most for `timeout`. Returns
    /// whether it has ended.
    pub(super) fn wait_at_rest(&self, timeout: Duration) -> bool {
        let until = now().checked_add(timeout);
        let mut state = self.state.lock();
        let mut in_time = true;
        while in_time && state.out {
            (state, in_time) = self.state.wait_until(state, until);
        }
        !state.out
    }

    pub(super) fn stop(&self) {
        self.active.store(false, Ordering::Release);
        // Under the lock: the task has either not read `active` yet or is in its wait.
        drop(self.state.lock());
        self.state.wake();
    }

    /// Drops all texts and events, and pauses the task.
    pub(super) fn flush_start(&self) {
        self.change(|state| {
            state.flushing = true;
            state.timeline.flush();
        });
    }

    /// Ends a flush; also drops the texts that the worker has added since its start.
    pub(super) fn flush_stop(&self) {
        self.change(|state| {
            state.timeline.flush();
            (state.flushing, state.refused) = (false, false);
        });
    }

    /// The peer refused a text: no more are pushed until a flush.
    pub(super) fn refuse(&self) {
        self.change(|state| state.refused = true);
    }

    /// Waits for the next item that this pad pushes; `None` if its task has to pause. `prerolled`
    /// says whether all sinks are prerolled.
    pub(super) fn next(&self, pad: u64, prerolled: impl Fn() -> bool) -> Option<Out<Mark>> {
        let mut state = self.state.lock();
        if state.pad == pad && std::mem::take(&mut state.out) {
            self.state.wake();
        }
        loop {
            if !self.active() || state.flushing || state.pad != pad {
                return None;
            }
            let (push, until) = state.push();
            if push >= Push::Stuck && state.phase == Phase::Preroll {
                // Without the lock, because it queries the pipeline.
                drop(state);
                let prerolled = prerolled();
                state = self.state.lock();
                if prerolled && state.phase == Phase::Preroll {
                    state.phase = Phase::Paused;
                    continue;
                }
            }
            match state.timeline.next(push) {
                Some(Out::Text { .. } | Out::Gap { .. }) if state.refused => continue,
                Some(out) => {
                    state.out = true;
                    return Some(out);
                }
                None => {}
            }
            let until = until.filter(|_| state.timeline.waits());
            state.armed = until.is_some();
            state = self.state.wait_until(state, until).0;
            state.armed = false;
        }
    }
}
