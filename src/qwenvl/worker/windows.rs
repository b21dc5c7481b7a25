//! Windows from their first frame to their requests.

use std::sync::Arc;

use gst::prelude::*;
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::frames::Size;
use qwen3_vl_core::window::WindowRules;

use super::Worker;
use super::picture::Picture;
use super::publish::WindowEvent;
use super::requests::PendingRequests;
use super::tell::reason;
use super::window::{Asked, OpenWindow, Target, event_sink, lost_sink};
use crate::message::{Reason, WindowInfo};
use crate::qwenvl::QwenVL;
use crate::qwenvl::imp::lock;
use crate::qwenvl::sample::{Plan, Sample, end_of};
use crate::qwenvl::settings::{Overload, TextLength};
use crate::qwenvl::strings::name_of;
use crate::qwenvl::time::{self, clock_time};

impl Worker {
    /// The model is loaded: drops the windows that opened before, so that the first window is a
    /// whole one.
    pub(super) fn drop_unasked(&mut self) {
        if self.open.is_empty() {
            return;
        }
        if let Some(windows) = &mut self.windows {
            windows.clear();
        }
        for mut window in std::mem::take(&mut self.open).into_values() {
            window.cut(None);
            window.requests.dropped(Reason::Loading, None);
        }
    }

    pub(super) fn too_short(&mut self, id: u64) {
        if let Some(window) = self.open.get(&id) {
            let frames = window.requests.window().frames.len();
            let Plan { settings, rules } = &*window.plan;
            let least = rules.least_frames();
            // A longer window does not help if it already has `max-frames` frames.
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
        let info = WindowInfo {
            stream_id: settings
                .stream_id
                .clone()
                .unwrap_or_else(|| name_of(&self.element)),
            id,
            segment: sample.segment.clone(),
            start: sample.running_time.min(end),
            end,
            partial: false,
            frames: Vec::new(),
            utc: None,
        };
        let prompts = (self.hooks.prompts)(&settings.prompt).into_iter();
        let prompts = prompts.map(|prompt| (self.next_request(), prompt));
        let requests = PendingRequests::new(info, prompts, self.publisher.clone());
        // A frame with a due time after the segment's end still belongs to the window.
        let covers = end.max(sample.running_time.saturating_add(clock_time(1)));
        self.publish(&WindowEvent::Opened {
            window: requests.window(),
            requests: &requests.numbers(),
            start: sample.stream_position(),
            end: covers.nseconds(),
        });
        let window = OpenWindow::new(requests, sample);
        let window = self.open.entry(id).insert_entry(window).into_mut();
        let Some(backend) = &self.backend else {
            return;
        };
        let model = backend.model();
        let frames = planned_frames(rules, sample).max(rules.least_frames());
        let prompts = window.requests.prompts();
        let text = self.texts.length(&**backend, &sample.plan, prompts);
        let forecast = |frames| settings.forecast(model, text, frames, shown);
        // A plan may exceed what is left of the stream: upstream is queried only if it does not
        // fit.
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
        window.requests.window_mut().partial = partial;
        let target = std::mem::replace(&mut window.target, Target::Nowhere);
        let (Target::Input { mut input, .. }, Some(backend)) = (target, &self.backend) else {
            return window.requests.dropped(Reason::Loading, None);
        };
        let backend = backend.clone();
        // The oldest one is being answered; max-pending others may wait.
        let limit = (window.plan.settings.max_pending as usize).saturating_add(1);
        while window.overload != Overload::Block && self.unanswered().len() >= limit {
            match self.unanswered().get(1) {
                Some(oldest) if window.overload != Overload::DropNewest => {
                    self.drop_unanswered(*oldest, Reason::Overload);
                }
                _ => return window.requests.dropped(Reason::Overload, None),
            }
        }
        let timeout = time::wait(window.plan.settings.attach_timeout);
        let (asks, odd) = window.ask(backend.model());
        // Queued before the backend is called, so that the requests end in order if it panics.
        let first = self.asked.len();
        let (asked, requests): (Vec<_>, Vec<_>) = asks.into_iter().unzip();
        self.asked.extend(asked);
        let window = id;
        self.publish(&WindowEvent::Closed { window, timeout });
        if let Some(odd) = odd {
            input.push(odd);
        }
        for (asked, request) in self.asked.range_mut(first..).zip(requests) {
            let sink = event_sink(self.session.clone(), asked.request.id());
            asked.handle = Some(input.ask(request, sink));
        }
    }

    /// The asked windows that have a request without an answer, oldest first.
    pub(super) fn unanswered(&self) -> Vec<u64> {
        windows_of(self.asked.iter().filter(|asked| asked.end.is_none()))
    }

    /// Windows that have a request without a terminal message.
    pub(super) fn outstanding(&self) -> usize {
        let asked = windows_of(self.asked.iter());
        self.open.len().saturating_add(asked.len())
    }
}

/// The windows of requests; the requests of one window must stand together.
fn windows_of<'a>(asked: impl Iterator<Item = &'a Asked>) -> Vec<u64> {
    let mut windows: Vec<u64> = asked.map(|asked| asked.request.id().window).collect();
    windows.dedup();
    windows
}

/// The length of the last plan's texts, which is counted once for all its windows.
#[derive(Default)]
pub(super) struct Texts(Option<(Arc<Plan>, TextLength)>);

impl Texts {
    /// The length of the system prompt with the longest prompt.
    fn length<'a>(
        &mut self,
        backend: &dyn Backend,
        plan: &Arc<Plan>,
        prompts: impl Iterator<Item = &'a str>,
    ) -> TextLength {
        if let Some((counted, length)) = &self.0
            && Arc::ptr_eq(counted, plan)
        {
            return *length;
        }
        let system = plan.settings.system_prompt.as_deref().unwrap_or_default();
        let (mut bytes, mut tokens) = (0, 0);
        for prompt in prompts {
            bytes = prompt.len().max(bytes);
            tokens = backend.text_tokens(prompt).max(tokens);
        }
        if !system.is_empty() {
            tokens = tokens.saturating_add(backend.text_tokens(system));
        }
        let bytes = bytes.saturating_add(system.len());
        let length = TextLength { bytes, tokens };
        self.0 = Some((plan.clone(), length));
        length
    }
}

/// A note on the pixel aspect ratio, for errors that name the size in square pixels.
fn square_pixels(info: &gst_video::VideoInfo) -> String {
    let par = info.par();
    if par.numer() == par.denom() {
        return String::new();
    }
    let (width, height) = (info.width(), info.height());
    let par = format_args!("{}/{}", par.numer(), par.denom());
    format!(" (the video has {width}x{height} pixels, with pixel-aspect-ratio {par})")
}

/// Frames that a window will hold: the rules' number, or the stream's by its frame rate if that is
/// less.
fn planned_frames(rules: &WindowRules, sample: &Sample) -> u32 {
    let (planned, fps) = (rules.planned_frames(), sample.info.fps());
    if fps.numer() <= 0 {
        return planned;
    }
    // At twice the segment rate a window covers twice as much of the stream.
    let seen = rules.duration() as f64 * sample.segment.rate().abs();
    let there = crate::qwenvl::events::holds(seen as u64, fps);
    planned.min(u32::try_from(there).unwrap_or(u32::MAX))
}

/// Frames that a window will have of the rest of the stream, if upstream answers a DURATION query.
fn frames_left(element: &QwenVL, rules: &WindowRules, sample: &Sample) -> Option<u32> {
    let pad = element.static_pad("sink")?;
    let all = pad.peer_query_duration::<gst::ClockTime>()?;
    let left = all.saturating_sub(time::stream_time(&sample.segment, sample.pts)?);
    let planned = u128::from(rules.planned_frames()).saturating_mul(u128::from(left.nseconds()));
    let frames = planned.checked_div(u128::from(rules.duration()))?;
    u32::try_from(frames.saturating_add(1)).ok()
}
