//! The text pad's stream: what the other threads report to it, and the wait of the pad's own task.
//!
//! Only the task pushes, and only the task waits: for the next text or event to push.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::monitor::Monitor;
use super::sync::{AtomicBool, now};
use super::timeline::{Out, Placing, Push, Timeline};
use crate::message::{RequestId, Segment};

/// A push of video that takes longer is stuck behind the text: a muxer with a short queue holds the
/// video of a window back until it has the text of that window, which needs that video.
const STUCK_AFTER: Duration = Duration::from_millis(500);

/// An event of the stream.
#[derive(Clone, Debug)]
pub(in crate::qwenvl) enum Mark {
    /// A segment, and before it the start of a stream, of this group, if it is another stream. One
    /// mark, so that nothing is said between the two.
    Segment(Segment, Option<Option<gst::GroupId>>),
    Eos,
}

/// How far the pipeline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::qwenvl) enum Phase {
    /// Not yet playing: a sink keeps its first buffer, and so the video, until all sinks have one.
    Preroll,
    Playing,
    /// Nothing moves, and nothing is stuck.
    Paused,
}

struct State {
    timeline: Timeline<Mark>,
    phase: Phase,
    /// Number of the pad that is served.
    pad: u64,
    /// The pad's task is pushing.
    out: bool,
    flushing: bool,
    /// The peer takes nothing more.
    refused: bool,
    /// When the push of video began that is going on.
    pushing: Option<Instant>,
    /// The task sleeps until a push may be stuck: the next push need not wake it for that.
    armed: bool,
}

impl State {
    /// How the push goes, and when it will go worse.
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

/// See the module's text.
pub(in crate::qwenvl) struct Text {
    state: Monitor<State>,
    /// Whether there is a pad that is active: without one, reports are ignored.
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

    fn change(&self, change: impl FnOnce(&mut State)) {
        if self.active() {
            self.state.change(change);
        }
    }

    // The application's thread.

    /// The pipeline begins to play, or stands still.
    pub(in crate::qwenvl) fn set_phase(&self, phase: Phase) {
        self.state.change(|state| {
            state.phase = phase;
            // A push that stood still begins anew.
            state.pushing = state.pushing.map(|_| now());
        });
    }

    // The streaming thread.

    /// An event of the stream, behind all that has been told so far.
    pub(in crate::qwenvl) fn mark(&self, mark: Mark) {
        let begins = match &mark {
            Mark::Segment(segment, _) => Some(segment.base().map_or(0, gst::ClockTime::nseconds)),
            Mark::Eos => None,
        };
        self.change(|state| state.timeline.mark(mark, begins));
    }

    /// Where texts stand from now on.
    pub(in crate::qwenvl) fn set_placing(&self, placing: Placing) {
        self.change(|state| state.timeline.set_placing(placing));
    }

    /// A buffer is about to be pushed, after which the video is at this running time.
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

    /// The buffer has been pushed.
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

    /// A request ended, with a text and where its window ends if it has one.
    pub(in crate::qwenvl) fn ended(
        &self,
        request: RequestId,
        text: Option<(&str, gst::ClockTime)>,
    ) {
        let text = text.map(|(text, end)| (text.to_owned(), end.nseconds()));
        self.change(|state| {
            let lost = state.timeline.lost;
            state.timeline.ended(request, text);
            if state.timeline.lost > lost {
                gst::warning!(
                    crate::qwenvl::imp::CAT,
                    "The text pad's peer is too slow: a text is lost"
                );
            }
        });
    }

    // The pad.

    /// Serves a new pad, under the number that is given back.
    pub(super) fn start(&self) -> u64 {
        let mut state = self.state.lock();
        state.timeline.flush();
        (state.flushing, state.refused, state.pushing) = (false, false, None);
        (state.pad, state.out) = (state.pad.wrapping_add(1), false);
        self.active.store(true, Ordering::Release);
        state.pad
    }

    /// The peer is known: it needs texts, and takes no account of GAPs.
    pub(super) fn needs_text(&self) {
        self.change(|state| state.timeline.needs_text());
    }

    /// The number of the pad that is served.
    pub(super) fn pad(&self) -> u64 {
        self.state.lock().pad
    }

    /// After [`Self::stop`]: waits until the pad's task pushes nothing, at most for `timeout`. Whether it
    /// does not.
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
        // Under the lock: the task is either before its look at `active` or already asleep.
        drop(self.state.lock());
        self.state.wake();
    }

    /// Forgets everything and lets the task rest.
    pub(super) fn flush_start(&self) {
        self.change(|state| {
            state.flushing = true;
            state.timeline.flush();
        });
    }

    /// What the worker had in its hands at the flush is forgotten, too.
    pub(super) fn flush_stop(&self) {
        self.change(|state| {
            state.timeline.flush();
            (state.flushing, state.refused) = (false, false);
        });
    }

    /// The peer takes nothing more until it is flushed.
    pub(super) fn refuse(&self) {
        self.change(|state| state.refused = true);
    }

    /// Waits for what this pad pushes next; none if its task shall rest. `prerolled` says whether all
    /// sinks have what they need before they play.
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
