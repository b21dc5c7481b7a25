//! The worker thread: it alone has the windows, and it publishes their events.
//!
//! ```text
//! Sample ─► Picture (RGB, at the size of the window) ─► Windows ─► backend ─► answer
//!                                                          └──── WindowEvent ────┘
//!                        sinks: statistics, log, meta, bus, text pad, held video, signal
//! ```

#[allow(
    clippy::arithmetic_side_effects,
    reason = "offsets in a picture that is in memory"
)]
mod geometry;
mod picture;
mod planes;
mod publish;
mod requests;
mod silence;
mod sinks;
mod tell;
mod window;
mod windows;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use gst::glib;
use gst::prelude::*;
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::window::{Event, Windows};

use self::picture::{Converter, Picture};
use self::publish::{Publisher, WindowEvent};
use self::silence::Silence;
use self::window::{Asked, OpenWindow};
use self::windows::Texts;
use super::failure;
use super::hold::StreamPosition;
use super::hooks::{Hooks, Stage};
use super::imp::{CAT, lock};
use super::outlets::Outlets;
use super::sample::Sample;
use super::session::{Control, Next, Session, Work};
use super::settings::Overload;
use crate::message::Reason;

/// Numbers of the next window and the next request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ids {
    pub(super) window: u64,
    pub(super) request: u64,
}

/// State of the worker thread.
pub(super) struct Worker {
    element: super::QwenVL,
    session: Arc<Session>,
    publisher: Arc<Publisher>,
    hooks: Hooks,
    /// Shared by all runs of the element.
    ids: Arc<Mutex<Ids>>,
    epoch: u64,
    backend: Option<Arc<dyn Backend>>,
    converter: Converter,
    windows: Option<Windows>,
    texts: Texts,
    open: BTreeMap<u64, OpenWindow>,
    /// Requests of closed windows without a terminal message, oldest first.
    asked: VecDeque<Asked>,
    silence: Silence,
}

/// An error that ends the worker.
struct Fatal(glib::Error);

impl Worker {
    pub(super) fn new(
        element: super::QwenVL,
        session: Arc<Session>,
        outlets: &Outlets,
        hooks: Hooks,
        ids: Arc<Mutex<Ids>>,
    ) -> Self {
        let sinks = sinks::all(&element, &session, outlets);
        let failed = {
            let (element, session) = (element.clone(), session.clone());
            move |error: &glib::Error| failure::report(&element, &session, error)
        };
        let publisher = Arc::new(Publisher::new(sinks, failed));
        Self {
            element,
            session,
            publisher,
            hooks,
            ids,
            epoch: 0,
            backend: None,
            converter: Converter::default(),
            windows: None,
            texts: Texts::default(),
            open: BTreeMap::new(),
            asked: VecDeque::new(),
            silence: Silence::default(),
        }
    }

    /// Runs until the session stops or fails.
    pub(super) fn run(mut self) {
        let session = self.session.clone();
        loop {
            let next = session.next(self.outstanding(), self.next_check(), |work| {
                self.admits(work)
            });
            let end = match next {
                Next::Control(Control::Stop) => Some((Reason::Cancelled, None)),
                Next::Control(Control::Abort(why)) => Some((Reason::Error, Some(why))),
                next => {
                    let done = panic::catch_unwind(AssertUnwindSafe(|| self.handle(next)));
                    let error = match done {
                        Ok(Ok(())) => None,
                        Ok(Err(Fatal(error))) => Some(error),
                        Err(panic) => Some(failure::panicked("the worker", &*panic)),
                    };
                    // Returns as `Control::Abort`, unless another failure came first.
                    if let Some(error) = error {
                        failure::report(&self.element, &session, &error);
                    }
                    None
                }
            };
            if let Some((reason, why)) = end {
                self.drop_all(reason, why.as_deref());
                self.publish(&WindowEvent::Finished);
                session.finished();
                return;
            }
        }
    }

    /// Whether to take this work now: with `overload=block` frames wait for the model and the
    /// engine.
    fn admits(&self, work: &Work) -> bool {
        match work {
            Work::Frame(sample) if sample.overload == Overload::Block => {
                let max_pending = sample.plan.settings.max_pending as usize;
                self.backend.is_some() && self.unanswered().len() <= max_pending
            }
            Work::Frame(_) | Work::Gap { .. } | Work::Break { .. } | Work::Mark(_) => true,
        }
    }

    fn handle(&mut self, next: Next) -> Result<(), Fatal> {
        match next {
            Next::Work(Work::Frame(sample)) => return self.frame(*sample),
            Next::Work(Work::Break { at, part }) => {
                self.end_windows(at);
                self.publish(&WindowEvent::Part(part));
            }
            Next::Work(Work::Gap { to, part }) => self.gap(to, part),
            Next::Work(Work::Mark(mark)) => self.publish(&WindowEvent::Mark(&mark)),
            Next::Nothing => self.check_silence(),
            Next::Control(Control::Ready(backend)) => {
                self.backend = Some(backend);
                self.drop_unasked();
            }
            Next::Control(Control::Event(request, event)) => return self.event(request, event),
            Next::Control(Control::Lost(window, failure)) => return self.lost(window, &failure),
            Next::Control(Control::Flush(epoch)) => {
                // The command of a second flush comes before that of the first.
                self.epoch = self.epoch.max(epoch);
                self.drop_all(Reason::Flush, None);
                self.session.reached(self.epoch);
            }
            Next::Control(Control::Expire) => self.drop_all(Reason::EosTimeout, None),
            // Both end `run`.
            Next::Control(Control::Abort(_) | Control::Stop) => (),
        }
        Ok(())
    }

    fn frame(&mut self, sample: Sample) -> Result<(), Fatal> {
        (self.hooks.at)(Stage::Worker);
        if self.open.values().any(|window| window.is_after(&sample)) {
            // Time has jumped back: the open windows end as partial ones.
            self.end_windows(None);
        }
        self.silence.heard(&sample);
        let rules = sample.plan.rules;
        let first = lock(&self.ids).window;
        let windows = self
            .windows
            .get_or_insert_with(|| Windows::new(rules, first));
        windows.set_rules(rules);
        let events = windows.push(sample.running_time.nseconds(), sample.next);
        lock(&self.ids).window = windows.next_id();
        let mut picture = Picture::new(&sample);
        for event in events {
            match event {
                Event::Opened { window, end } => self.opened(window, end, &sample, picture.shown()),
                Event::Frame { window } => self.covered(window, &sample, &mut picture),
                end => self.end_window(end),
            }
        }
        self.publish(&WindowEvent::Watermark {
            reached: sample.running_time,
            next: StreamPosition {
                part: sample.part,
                time: sample.next,
            },
        });
        Ok(())
    }

    /// The stream breaks at this running time: ends the open windows.
    fn end_windows(&mut self, at: Option<gst::ClockTime>) {
        for window in self.open.values_mut() {
            window.cut(at);
        }
        let ends = self.windows.as_mut().map(Windows::finish);
        ends.unwrap_or_default()
            .into_iter()
            .for_each(|end| self.end_window(end));
    }

    /// No frame comes before this running time: closes the windows that end by then.
    fn gap(&mut self, to: gst::ClockTime, part: u64) {
        let to_nanos = to.nseconds();
        let ends = self.windows.as_mut().map(|windows| windows.skip(to_nanos));
        ends.unwrap_or_default()
            .into_iter()
            .for_each(|end| self.end_window(end));
        let time = to_nanos;
        self.publish(&WindowEvent::Watermark {
            reached: to,
            next: StreamPosition { part, time },
        });
    }

    /// When to check whether the end of an open window has passed without a frame.
    fn next_check(&self) -> Option<Instant> {
        let ends = self.open.values().map(OpenWindow::end);
        let end = ends.min()?;
        self.silence
            .next_check(end, now_of(&self.element), Instant::now())
    }

    /// Closes windows whose end has passed on the clock while the camera is silent.
    fn check_silence(&mut self) {
        let Some(now) = now_of(&self.element) else {
            return;
        };
        let ends = self.open.values().map(OpenWindow::end);
        let over = ends.filter(|end| self.silence.is_over(*end, now)).max();
        if let (Some(end), Some(part)) = (over, self.silence.part()) {
            gst::info!(
                CAT,
                obj = self.element,
                "Nothing comes: what ended by {end} is complete"
            );
            self.gap(end, part);
        }
    }

    fn publish(&self, event: &WindowEvent<'_>) {
        self.publisher.publish(event);
    }

    fn end_window(&mut self, end: Event) {
        match end {
            Event::Closed { window, partial } => self.closed(window, partial),
            Event::Discarded { window, .. } => self.too_short(window),
            // These do not end a window.
            Event::Opened { .. } | Event::Frame { .. } => (),
        }
    }
}

/// Running time by the pipeline's clock, in PLAYING.
fn now_of(element: &super::QwenVL) -> Option<gst::ClockTime> {
    let playing = element.current_state() == gst::State::Playing;
    playing.then(|| element.current_running_time()).flatten()
}
