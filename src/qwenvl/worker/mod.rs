//! The worker thread: it alone knows the windows and ends each of them in one message.
//!
//! ```text
//! Sample ─► Picture (RGB, at the size of the window) ─► Windows ─► backend ─► answer ─► bus, meta
//! ```

#[allow(
    clippy::arithmetic_side_effects,
    reason = "parts of a picture that lies in memory"
)]
mod geometry;
mod picture;
mod planes;
mod silence;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use gst::glib;
use gst::prelude::*;
use qwen3_vl::backend::{self, Backend, Failure};
use qwen3_vl::frames::Size;
use qwen3_vl::window::{Event, WindowRules, Windows};

use self::picture::{Converter, Picture};
use self::silence::Silence;
use self::window::{Asked, Ending, OpenWindow, Target};
use super::failure;
use super::hold::{Hold, Place};
use super::hooks::{Hooks, Stage};
use super::imp::{CAT, lock};
use super::outlets::Outlets;
use super::sample::{Plan, Sample, end_of};
use super::session::{Control, Next, Session, Work};
use super::settings::Overload;
use super::signals;
use super::stats::count;
use super::strings::name_of;
use super::time::{self, clock_time};
use crate::message::{self, Reason, Request};

/// The numbers that the next window and request will have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ids {
    pub(super) window: u64,
    pub(super) request: u64,
}

/// See the module's text.
pub(super) struct Worker {
    element: super::QwenVL,
    session: Arc<Session>,
    outlets: Arc<Outlets>,
    hooks: Hooks,
    /// Of all runs of the element.
    ids: Arc<Mutex<Ids>>,
    epoch: u64,
    backend: Option<Arc<dyn Backend>>,
    converter: Converter,
    windows: Option<Windows>,
    open: BTreeMap<u64, OpenWindow>,
    /// Closed windows that have not been told of, oldest first.
    asked: VecDeque<Asked>,
    silence: Silence,
}

/// Why the worker gives up.
struct Fatal(glib::Error);

impl Worker {
    pub(super) fn new(
        element: super::QwenVL,
        session: Arc<Session>,
        outlets: Arc<Outlets>,
        hooks: Hooks,
        ids: Arc<Mutex<Ids>>,
    ) -> Self {
        Self {
            element,
            session,
            outlets,
            hooks,
            ids,
            epoch: 0,
            backend: None,
            converter: Converter::default(),
            windows: None,
            open: BTreeMap::new(),
            asked: VecDeque::new(),
            silence: Silence::default(),
        }
    }

    /// Works until the session stops or fails.
    pub(super) fn run(mut self) {
        let session = self.session.clone();
        loop {
            let outstanding = self.open.len().saturating_add(self.asked.len());
            let next = session.next(outstanding, self.next_look(), |work| self.admits(work));
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
                    // Comes back as `Abort`, unless another failure was first.
                    if let Some(error) = error {
                        failure::report(&self.element, &session, &error);
                    }
                    None
                }
            };
            if let Some((reason, why)) = end {
                self.drop_all(reason, why.as_deref());
                self.outlets.hold(Hold::all_decided);
                session.finished();
                return;
            }
        }
    }

    /// Whether to take up this work now: a stream that may be held waits for model and engine.
    fn admits(&self, work: &Work) -> bool {
        match work {
            Work::Frame(sample) if sample.overload == Overload::Block => {
                let max_pending = sample.plan.settings.max_pending as usize;
                self.backend.is_some() && self.unanswered().count() <= max_pending
            }
            Work::Frame(_) | Work::Gap { .. } | Work::Break { .. } | Work::Mark(_) => true,
        }
    }

    fn handle(&mut self, next: Next) -> Result<(), Fatal> {
        match next {
            Next::Work(Work::Frame(sample)) => return self.frame(*sample),
            Next::Work(Work::Break { at, part }) => {
                self.end_windows(at);
                self.outlets
                    .hold(|hold| hold.decided(Place { part, time: 0 }));
            }
            Next::Work(Work::Gap { to, part }) => self.gap(to, part),
            Next::Work(Work::Mark(mark)) => self.outlets.text(|text| text.mark(mark)),
            Next::Nothing => self.look_at_the_clock(),
            Next::Control(Control::Ready(backend)) => {
                self.backend = Some(backend);
                self.drop_unasked();
            }
            Next::Control(Control::Event(window, event)) => return self.event(window, event),
            Next::Control(Control::Flush(epoch)) => {
                // Of two flushes in a row, the second one overtakes the first.
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
            // Time has jumped back; the windows will say that they were cut.
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
        self.outlets.text(|text| text.decided(sample.running_time));
        let next = Place {
            part: sample.part,
            time: sample.next,
        };
        self.outlets.hold(|hold| hold.decided(next));
        Ok(())
    }

    /// The stream breaks at this running time: what is open is complete.
    fn end_windows(&mut self, at: Option<gst::ClockTime>) {
        for window in self.open.values_mut() {
            window.cut(at);
        }
        let ends = self.windows.as_mut().map(Windows::finish);
        ends.unwrap_or_default()
            .into_iter()
            .for_each(|end| self.end_window(end));
    }

    /// The stream has come to this running time without a frame.
    fn gap(&mut self, to: gst::ClockTime, part: u64) {
        let to_nanos = to.nseconds();
        let ends = self.windows.as_mut().map(|windows| windows.skip(to_nanos));
        ends.unwrap_or_default()
            .into_iter()
            .for_each(|end| self.end_window(end));
        self.outlets.text(|text| text.decided(to));
        let time = to_nanos;
        self.outlets.hold(|hold| hold.decided(Place { part, time }));
    }

    /// When to look whether an open window's time has gone by without a frame.
    fn next_look(&self) -> Option<Instant> {
        let end = self.open.values().map(|window| window.request.end).min()?;
        self.silence
            .next_look(end, now_of(&self.element), Instant::now())
    }

    /// A camera that is silent does not keep the windows open whose time has gone by.
    fn look_at_the_clock(&mut self) {
        let Some(now) = now_of(&self.element) else {
            return;
        };
        let ends = self.open.values().map(|window| window.request.end);
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

    /// The first window is one that the model sees: those of before are over when it is loaded.
    fn drop_unasked(&mut self) {
        if self.open.is_empty() {
            return;
        }
        if let Some(windows) = &mut self.windows {
            windows.clear();
        }
        for mut window in std::mem::take(&mut self.open).into_values() {
            window.cut(None);
            self.post_dropped(&window.request, Reason::Loading, None);
        }
    }

    fn end_window(&mut self, end: Event) {
        match end {
            Event::Closed { window, partial } => self.closed(window, partial),
            Event::Discarded { window, .. } => self.too_short(window),
            // Neither is an end.
            Event::Opened { .. } | Event::Frame { .. } => (),
        }
    }

    fn too_short(&mut self, id: u64) {
        if let Some(window) = self.open.get(&id) {
            let frames = window.request.frames.len();
            let least = window.plan.rules.least_frames();
            let text = format!(
                "frames of the window: {frames}, needed: {least}; raise window-duration or fps, or set \
                 mode=images"
            );
            self.drop_open(id, Reason::TooShort, Some(&text));
        }
    }

    fn opened(&mut self, id: u64, end: u64, sample: &Sample, shown: Size) {
        let Plan { settings, rules } = &*sample.plan;
        let end = clock_time(end);
        let end = end_of(&sample.segment).map_or(end, |last| end.min(last));
        let request = Request {
            stream_id: settings
                .stream_id
                .clone()
                .unwrap_or_else(|| name_of(&self.element)),
            window_id: id,
            request_id: self.next_request(),
            prompt: settings.prompt.clone(),
            segment: sample.segment.clone(),
            start: sample.running_time.min(end),
            end,
            partial: false,
            frames: Vec::new(),
            utc: None,
        };
        self.outlets.text(|text| text.opened(id, request.start));
        // A frame that stands for a time behind the end is still the window's.
        let covers = end.max(sample.running_time.saturating_add(clock_time(1)));
        let covers = covers.nseconds();
        self.outlets
            .hold(|hold| hold.opened(id, sample.place(), covers));
        let window = OpenWindow::new(request, sample);
        let window = self.open.entry(id).insert_entry(window).into_mut();
        let Some(backend) = &self.backend else {
            return;
        };
        let model = backend.model();
        let frames = planned_frames(rules, sample).max(rules.least_frames());
        let forecast = |frames| settings.forecast(model, frames, shown);
        // A window may be planned to be longer than the stream is: only then somebody has to ask it.
        let forecast = forecast(frames).or_else(|error| {
            let left = frames_left(&self.element, rules, sample).filter(|left| *left < frames);
            left.map_or(Err(error), |left| forecast(left.max(rules.least_frames())))
        });
        let forecast = match forecast {
            Ok(forecast) => forecast,
            Err(error) => {
                let failure = Failure::from(error);
                self.drop_open(id, reason(&failure), Some(&failure.to_string()));
                return;
            }
        };
        let waits = sample.overload == Overload::Block;
        let head = settings.window_head(&forecast, waits);
        let input = backend.open(head, Ending::sink(self.session.clone(), id));
        let size = (forecast.size, forecast.rounding);
        window.target = Target::Input { input, size };
    }

    fn next_request(&self) -> u64 {
        let mut ids = lock(&self.ids);
        let next = ids.request.saturating_add(1);
        std::mem::replace(&mut ids.request, next)
    }

    fn covered(&mut self, id: u64, sample: &Sample, picture: &mut Picture<'_>) {
        let Some(window) = self.open.get_mut(&id) else {
            return;
        };
        if let Err(error) = window.push(sample, picture, &mut self.converter) {
            self.drop_open(id, Reason::Unmappable, Some(&error.to_string()));
        }
    }

    fn closed(&mut self, id: u64, partial: bool) {
        let Some(mut window) = self.open.remove(&id) else {
            return;
        };
        window.request.partial = partial;
        let target = std::mem::replace(&mut window.target, Target::Nowhere);
        let (Target::Input { mut input, .. }, Some(backend)) = (target, &self.backend) else {
            return self.post_dropped(&window.request, Reason::Loading, None);
        };
        // The oldest one is being answered; max-pending others may wait.
        let room = (window.plan.settings.max_pending as usize).saturating_add(1);
        while window.overload != Overload::Block && self.unanswered().count() >= room {
            let oldest = self.unanswered().nth(1);
            if window.overload == Overload::DropNewest || oldest.is_none() {
                return self.post_dropped(&window.request, Reason::Overload, None);
            }
            if let Some(oldest) = oldest.and_then(|oldest| self.asked.remove(oldest)) {
                oldest.cancel();
                self.post_dropped(&oldest.request, Reason::Overload, None);
            }
        }
        let timeout = time::wait(window.plan.settings.attach_timeout);
        let (asked, question, odd) = window.ask(backend.model());
        // In the list before the backend is called: should it panic, the window still ends.
        self.asked.push_back(asked);
        self.outlets.hold(|hold| hold.closed(id, timeout));
        if let Some(odd) = odd {
            input.push(odd);
        }
        let handle = input.close(question);
        if let Some(asked) = self.asked.back_mut() {
            asked.handle = Some(handle);
        }
    }

    /// Which of the asked windows have no answer, oldest first.
    fn unanswered(&self) -> impl Iterator<Item = usize> {
        let asked = self.asked.iter().enumerate();
        asked.filter_map(|(index, asked)| asked.end.is_none().then_some(index))
    }

    fn event(&mut self, id: u64, event: backend::Event) -> Result<(), Fatal> {
        if self.session.epoch() != self.epoch {
            // Flushed meanwhile; the command that drops the window is on its way.
            return Ok(());
        }
        if let backend::Event::Failed(Failure::Backend(text)) = event {
            let text = format!("The engine failed: {text}");
            return Err(Fatal(glib::Error::new(gst::LibraryError::Failed, &text)));
        }
        let index = self
            .asked
            .iter()
            .position(|asked| asked.request.window_id == id);
        if let backend::Event::Token { id, text } = event {
            if let Some(asked) = index.and_then(|index| self.asked.get_mut(index)) {
                let structure = asked.request.token(asked.tokens, id, &text);
                asked.tokens = asked.tokens.saturating_add(1);
                self.post(structure);
            }
            return Ok(());
        }
        match index.and_then(|index| self.asked.get_mut(index)) {
            Some(asked) => asked.end = Some(event),
            None => self.ended_early(id, event),
        }
        self.tell_ended();
        Ok(())
    }

    /// Tells what has become of the oldest windows: they are told in their order, whichever is
    /// answered first.
    fn tell_ended(&mut self) {
        while self.asked.front().is_some_and(|asked| asked.end.is_some())
            && let Some(mut asked) = self.asked.pop_front()
            && let Some(event) = asked.end.take()
        {
            self.tell(&asked, event);
        }
    }

    fn tell(&self, asked: &Asked, event: backend::Event) {
        let id = asked.request.window_id;
        match (event, &self.backend) {
            (backend::Event::Answer(answer), Some(backend)) => {
                let structure = asked
                    .request
                    .description(&answer, backend.model(), asked.late);
                self.session.count(|stats| count(&mut stats.described));
                gst::info!(
                    CAT,
                    obj = self.element,
                    "window {id} is described: {structure}"
                );
                let mut holds = false;
                self.outlets.hold(|hold| holds = hold.active());
                if !holds {
                    self.session.attach(self.epoch, structure.clone());
                }
                self.post(structure.clone());
                let text = (message::text(&structure), asked.request.end);
                self.outlets.text(|to| to.ended(id, Some(text)));
                self.outlets
                    .hold(|hold| hold.ended(id, Some(structure.clone())));
                self.tell_application(|| signals::description(&self.element, &structure));
            }
            (backend::Event::Failed(error), _) => {
                self.post_dropped(&asked.request, reason(&error), Some(&error.to_string()));
            }
            _ => self.post_dropped(&asked.request, Reason::Cancelled, None),
        }
    }

    /// A terminal event for a window that does not wait for one: it is open, or dropped already.
    fn ended_early(&mut self, id: u64, event: backend::Event) {
        if !self.open.contains_key(&id) {
            self.session.count(|stats| count(&mut stats.late));
            return;
        }
        match event {
            backend::Event::Failed(error) => {
                self.drop_open(id, reason(&error), Some(&error.to_string()));
            }
            _ => self.drop_open(id, Reason::Cancelled, None),
        }
    }

    /// Ends all windows without an answer.
    fn drop_all(&mut self, reason: Reason, message: Option<&str>) {
        if let Some(windows) = &mut self.windows {
            windows.clear();
        }
        for mut asked in std::mem::take(&mut self.asked) {
            // It only waited for the answer of another one.
            if reason == Reason::EosTimeout
                && let Some(event) = asked.end.take()
            {
                self.tell(&asked, event);
                continue;
            }
            // The backend may be what has just panicked.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| asked.cancel()));
            self.post_dropped(&asked.request, reason, message);
        }
        for OpenWindow {
            request, target, ..
        } in std::mem::take(&mut self.open).into_values()
        {
            let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(target)));
            self.post_dropped(&request, reason, message);
        }
    }

    fn drop_open(&mut self, id: u64, reason: Reason, message: Option<&str>) {
        if let Some(window) = self.open.remove(&id) {
            self.post_dropped(&window.request, reason, message);
        }
    }

    fn post_dropped(&self, request: &Request, reason: Reason, message: Option<&str>) {
        let id = request.window_id;
        let message = message.or_else(|| reason.remedy());
        let said = message.unwrap_or("nobody waits for it");
        match reason {
            Reason::Flush | Reason::Cancelled => {
                gst::info!(CAT, obj = self.element, "window {id} is dropped: {said}");
            }
            _ => {
                let reason = reason.as_str();
                gst::warning!(
                    CAT,
                    obj = self.element,
                    "window {id} is dropped ({reason}): {said}"
                );
            }
        }
        self.session.count(|stats| count(&mut stats.dropped));
        self.post(request.dropped(reason, message));
        self.outlets.text(|text| text.ended(id, None));
        self.outlets.hold(|hold| hold.ended(id, None));
    }

    fn post(&self, structure: gst::Structure) {
        gst::debug!(CAT, obj = self.element, "{structure}");
        let message = gst::message::Element::builder(structure)
            .src(&self.element)
            .build();
        // Without a bus there is nobody to tell.
        self.tell_application(|| drop(self.element.post_message(message)));
    }

    /// Runs what may be code of the application: it takes as long as it takes.
    fn tell_application(&self, tell: impl FnOnce()) {
        self.session.telling(true);
        tell();
        self.session.telling(false);
    }
}

/// Running time now by the pipeline's clock, while it runs.
fn now_of(element: &super::QwenVL) -> Option<gst::ClockTime> {
    let playing = element.current_state() == gst::State::Playing;
    playing.then(|| element.current_running_time()).flatten()
}

/// How a failure of the backend is told.
fn reason(error: &Failure) -> Reason {
    match error {
        Failure::Full(_) => Reason::Overload,
        Failure::Request(_) | Failure::Backend(_) => Reason::Error,
    }
}

/// Frames that a window will hold: no more than the stream has, if it says how many.
fn planned_frames(rules: &WindowRules, sample: &Sample) -> u32 {
    let (planned, fps) = (rules.planned_frames(), sample.info.fps());
    if fps.numer() <= 0 {
        return planned;
    }
    // At twice the rate a window sees twice as much of the stream.
    let seen = rules.duration() as f64 * sample.segment.rate().abs();
    let there = super::events::holds(seen as u64, fps);
    planned.min(u32::try_from(there).unwrap_or(u32::MAX))
}

/// Frames that a window will have of what is left of the stream, if upstream knows how long it is.
fn frames_left(element: &super::QwenVL, rules: &WindowRules, sample: &Sample) -> Option<u32> {
    let pad = element.static_pad("sink")?;
    let all = pad.peer_query_duration::<gst::ClockTime>()?;
    let left = all.saturating_sub(sample.segment.to_stream_time(sample.pts)?);
    let planned = u128::from(rules.planned_frames()) * u128::from(left.nseconds());
    u32::try_from(planned / u128::from(rules.duration().max(1)) + 1).ok()
}
