//! Windows from their first frame to the question.

use std::sync::Arc;

use gst::prelude::*;
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::frames::Size;
use qwen3_vl_core::window::WindowRules;

use super::Worker;
use super::picture::Picture;
use super::tell::reason;
use super::window::{OpenWindow, Target, event_sink, lost_sink};
use crate::message::{Reason, Request};
use crate::qwenvl::QwenVL;
use crate::qwenvl::imp::lock;
use crate::qwenvl::sample::{Plan, Sample, end_of};
use crate::qwenvl::settings::Overload;
use crate::qwenvl::strings::name_of;
use crate::qwenvl::time::{self, clock_time};

impl Worker {
    /// The first window is one that the model sees: those of before are over when it is loaded.
    pub(super) fn drop_unasked(&mut self) {
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

    pub(super) fn too_short(&mut self, id: u64) {
        if let Some(window) = self.open.get(&id) {
            let frames = window.request.frames.len();
            let Plan { settings, rules } = &*window.plan;
            let least = rules.least_frames();
            // A window that holds all the frames that it may is no remedy if it is longer.
            let remedy = match rules.planned_frames() < settings.max_frames {
                true => "raise window-duration or fps",
                false => "lower window-duration or raise max-frames",
            };
            let text = format!(
                "frames of the window: {frames}, needed: {least}; {remedy}, or set mode=images"
            );
            self.drop_open(id, Reason::TooShort, Some(&text));
        }
    }

    pub(super) fn opened(&mut self, id: u64, end: u64, sample: &Sample, shown: Size) {
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
            .hold(|hold| hold.opened(id, sample.stream_position(), covers));
        let window = OpenWindow::new(request, sample);
        let window = self.open.entry(id).insert_entry(window).into_mut();
        let Some(backend) = &self.backend else {
            return;
        };
        let model = backend.model();
        let frames = planned_frames(rules, sample).max(rules.least_frames());
        let text_tokens = self.texts.tokens(&**backend, &sample.plan);
        let forecast = |frames| settings.forecast(model, text_tokens, frames, shown);
        // A window may be planned to be longer than the stream is: only then somebody has to ask it.
        let forecast = forecast(frames).or_else(|error| {
            let left = frames_left(&self.element, rules, sample).filter(|left| *left < frames);
            left.map_or(Err(error), |left| forecast(left.max(rules.least_frames())))
        });
        let forecast = match forecast {
            Ok(forecast) => forecast,
            Err(error) => {
                let failure = Failure::from(error);
                let text = format!("{failure}{}", square_pixels(&sample.info));
                self.drop_open(id, reason(&failure), Some(&text));
                return;
            }
        };
        let waits = sample.overload == Overload::Block;
        let head = settings.window_head(&forecast, waits);
        let input = backend.open(head, lost_sink(self.session.clone(), id));
        let size = (forecast.size, forecast.rounding);
        window.target = Target::Input { input, size };
    }

    fn next_request(&self) -> u64 {
        let mut ids = lock(&self.ids);
        let next = ids.request.saturating_add(1);
        std::mem::replace(&mut ids.request, next)
    }

    pub(super) fn covered(&mut self, id: u64, sample: &Sample, picture: &mut Picture<'_>) {
        let Some(window) = self.open.get_mut(&id) else {
            return;
        };
        if let Err(error) = window.push(sample, picture, &mut self.converter) {
            self.drop_open(id, Reason::Unmappable, Some(&error.to_string()));
        }
    }

    pub(super) fn closed(&mut self, id: u64, partial: bool) {
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
        let (asked, request, odd) = window.ask(backend.model());
        // In the list before the backend is called: should it panic, the window still ends.
        self.asked.push_back(asked);
        self.outlets.hold(|hold| hold.closed(id, timeout));
        if let Some(odd) = odd {
            input.push(odd);
        }
        let handle = input.ask(request, event_sink(self.session.clone(), id));
        if let Some(asked) = self.asked.back_mut() {
            asked.handle = Some(handle);
        }
    }

    /// Which of the asked windows have no answer, oldest first.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = usize> {
        let asked = self.asked.iter().enumerate();
        asked.filter_map(|(index, asked)| asked.end.is_none().then_some(index))
    }
}

/// The tokens of the texts of the last plan: they are counted once for all its windows.
#[derive(Default)]
pub(super) struct Texts(Option<(Arc<Plan>, usize)>);

impl Texts {
    fn tokens(&mut self, backend: &dyn Backend, plan: &Arc<Plan>) -> usize {
        if let Some((counted, tokens)) = &self.0
            && Arc::ptr_eq(counted, plan)
        {
            return *tokens;
        }
        let texts = plan.settings.texts();
        let tokens = texts
            .map(|text| backend.text_tokens(text))
            .fold(0, usize::saturating_add);
        self.0 = Some((plan.clone(), tokens));
        tokens
    }
}

/// What to add where the size of frames is told that are wider or higher than they lie in memory.
fn square_pixels(info: &gst_video::VideoInfo) -> String {
    let par = info.par();
    if par.numer() == par.denom() {
        return String::new();
    }
    let (width, height) = (info.width(), info.height());
    let par = format_args!("{}/{}", par.numer(), par.denom());
    format!(" (the video has {width}x{height} pixels, with pixel-aspect-ratio {par})")
}

/// Frames that a window will hold: no more than the stream has, if it says how many.
fn planned_frames(rules: &WindowRules, sample: &Sample) -> u32 {
    let (planned, fps) = (rules.planned_frames(), sample.info.fps());
    if fps.numer() <= 0 {
        return planned;
    }
    // At twice the rate a window sees twice as much of the stream.
    let seen = rules.duration() as f64 * sample.segment.rate().abs();
    let there = crate::qwenvl::events::holds(seen as u64, fps);
    planned.min(u32::try_from(there).unwrap_or(u32::MAX))
}

/// Frames that a window will have of what is left of the stream, if upstream knows how long it is.
fn frames_left(element: &QwenVL, rules: &WindowRules, sample: &Sample) -> Option<u32> {
    let pad = element.static_pad("sink")?;
    let all = pad.peer_query_duration::<gst::ClockTime>()?;
    let left = all.saturating_sub(time::stream_time(&sample.segment, sample.pts)?);
    let planned = u128::from(rules.planned_frames()).saturating_mul(u128::from(left.nseconds()));
    let frames = planned.checked_div(u128::from(rules.duration()))?;
    u32::try_from(frames.saturating_add(1)).ok()
}
