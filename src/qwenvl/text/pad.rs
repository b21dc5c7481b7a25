//! The request pad `text` and its task.

use std::time::Duration;

use gst::prelude::*;
use gst::subclass::prelude::*;

use super::recorder;
use super::timeline::Out;
use super::{Mark, Placing};
use crate::message::Segment;
use crate::qwenvl::hold::pad as hold;
use crate::qwenvl::imp::{CAT, QwenVL, lock};
use crate::qwenvl::sample::end_of;
use crate::qwenvl::settings::{Settings, TextTiming};
use crate::qwenvl::time::{self, clock_time};

/// Name of the pad and of its template.
pub(in crate::qwenvl) const NAME: &str = "text";

/// How long a release waits for a push of text to return.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(100);

/// Caps of the pad.
pub(in crate::qwenvl) fn caps() -> gst::Caps {
    gst::Caps::builder("text/x-raw")
        .field("format", "utf8")
        .build()
}

fn placing(settings: &Settings, live: bool) -> Placing {
    let answer = match settings.text_timing {
        TextTiming::Auto => live,
        TextTiming::Answer => true,
        TextTiming::Span => false,
    };
    match settings.window_stride {
        _ if !answer => Placing::Span,
        0 => Placing::Answer {
            hold: settings.window_duration,
        },
        hold => Placing::Answer { hold },
    }
}

impl QwenVL {
    pub(in crate::qwenvl) fn text_pad(&self) -> Option<gst::Pad> {
        lock(&self.textpad).clone()
    }

    /// The pad, not yet active.
    pub(in crate::qwenvl) fn new_text_pad(template: &gst::PadTemplate) -> gst::Pad {
        gst::Pad::builder_from_template(template)
            .name(NAME)
            .activatemode_function(|pad, parent, _, active| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::loggable_error!(CAT, "Panic")),
                    |imp| imp.activate_text(pad, active),
                )
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(
                    parent,
                    || false,
                    |imp| match event.view() {
                        // QoS of the text must not throttle the video.
                        gst::EventView::Qos(_) | gst::EventView::Reconfigure(_) => true,
                        _ => gst::Pad::event_default(pad, Some(&*imp.obj()), event),
                    },
                )
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.text_query(pad, query))
            })
            .iterate_internal_links_function(|_, parent| {
                Self::catch_panic_pad_function(
                    parent,
                    || gst::Iterator::from_vec(Vec::new()),
                    |imp| gst::Iterator::from_vec(vec![imp.sinkpad.clone()]),
                )
            })
            .flags(gst::PadFlags::FIXED_CAPS)
            .build()
    }

    fn activate_text(&self, pad: &gst::Pad, active: bool) -> Result<(), gst::LoggableError> {
        if !active {
            self.text.stop();
            return pad
                .stop_task()
                .map_err(|_| gst::loggable_error!(CAT, "The text task does not stop"));
        }
        let number = self.text.start();
        // A pad that is requested in PLAYING begins in mid-stream.
        let segment = lock(&self.stream).segment.clone();
        if let Some(segment) = segment {
            self.text.set_placing(self.placing());
            self.text.mark(Mark::Segment(segment, Some(self.group())));
        }
        self.start_text(pad, number)
            .map_err(|_| gst::loggable_error!(CAT, "The text task does not start"))
    }

    fn start_text(&self, pad: &gst::Pad, number: u64) -> Result<(), gst::glib::BoolError> {
        let mut segment = None;
        let next = move |this: &Self| this.text.next(number, || this.is_prerolled());
        let turn = move |this: &Self, pad: &gst::Pad| match next(this) {
            Some(out) => this.push_text(pad, out, &mut segment),
            None => drop(pad.pause_task()),
        };
        self.start_task(pad, "the text pad", turn)
    }

    fn placing(&self) -> Placing {
        let live = lock(&self.stream).live();
        let live = live.unwrap_or_else(|| self.ask_live());
        placing(&lock(&self.settings), live)
    }

    /// Gives the text stream a new segment, and the start of a new stream if there is one. Never
    /// waits.
    pub(in crate::qwenvl) fn text_segment(
        &self,
        segment: Segment,
        new_stream: Option<Option<gst::GroupId>>,
    ) {
        if !self.text.active() {
            return;
        }
        let placing = self.placing();
        self.text.set_placing(placing);
        let mark = Mark::Segment(segment, new_stream);
        match (placing, self.session()) {
            // Behind the texts of the windows before it.
            (Placing::Span, Some(session)) => session.push_mark(mark),
            _ => self.text.mark(mark),
        }
    }

    /// Begins a flush of the text stream.
    pub(in crate::qwenvl) fn text_flush_start(&self, event: &gst::Event) {
        if let Some(pad) = self.text_pad() {
            self.text.flush_start();
            pad.push_event(event.clone());
            // Waits for the task to pause: it must push nothing from before the flush after this.
            let _ = pad.pause_task();
        }
    }

    /// Ends a flush of the text stream.
    pub(in crate::qwenvl) fn text_flush_stop(&self, event: &gst::Event) {
        if let Some(pad) = self.text_pad() {
            pad.push_event(event.clone());
            self.text.flush_stop();
            if self.text.active() && self.start_text(&pad, self.text.pad()).is_err() {
                gst::warning!(CAT, imp = self, "The text task does not start again");
            }
        }
    }

    /// Whether the whole pipeline is prerolled: its sinks go to PLAYING one by one.
    fn is_prerolled(&self) -> bool {
        let mut top: gst::Object = self.obj().clone().upcast();
        while let Some(parent) = top.parent() {
            top = parent;
        }
        let Ok(pipeline) = top.downcast::<gst::Element>() else {
            return false;
        };
        let (_, current, pending) = pipeline.state(gst::ClockTime::ZERO);
        current >= gst::State::Paused && pending != gst::State::Paused
    }

    /// Removes the pad. Its task may be in a push that does not return, because the sink behind it
    /// waits for the clock. A flush would end that, but a muxer forwards a flush, which empties its
    /// file.
    pub(in crate::qwenvl) fn release_text(&self, pad: &gst::Pad) {
        self.text.stop();
        let at_rest = self.text.wait_at_rest(RELEASE_TIMEOUT);
        if at_rest && pad.set_active(false).is_err() {
            gst::warning!(CAT, imp = self, "The text pad does not stop");
        }
        if self.obj().remove_pad(pad).is_err() {
            gst::warning!(CAT, imp = self, "The text pad is gone already");
        }
        if !at_rest {
            let pad = pad.clone();
            let end = std::thread::Builder::new().name("qwenvl-text-end".into());
            // Without the thread the task still ends, but is never joined.
            let _ = end.spawn(move || pad.stop_task());
        }
    }

    /// The group of the video's stream.
    fn group(&self) -> Option<gst::GroupId> {
        let start = self.sinkpad.sticky_event::<gst::event::StreamStart>(0);
        start.and_then(|event| event.group_id())
    }

    fn start_stream(&self, pad: &gst::Pad, group: Option<gst::GroupId>) {
        let id = pad.create_stream_id(&*self.obj(), Some(NAME));
        let event = gst::event::StreamStart::builder(&id).flags(gst::StreamFlags::SPARSE);
        pad.push_event(match group {
            Some(group) => event.group_id(group).build(),
            None => event.build(),
        });
        pad.push_event(gst::event::Caps::new(&caps()));
    }

    fn push_text(&self, pad: &gst::Pad, out: Out<Mark>, segment: &mut Option<Segment>) {
        let at = |segment: &Option<Segment>, time: u64| {
            let (time, segment) = (clock_time(time), segment.as_ref()?);
            let time = end_of(segment).map_or(time, |end| time.min(end));
            segment.position_from_running_time(time)
        };
        gst::log!(CAT, obj = pad, "{out:?}");
        match out {
            Out::Mark(Mark::Segment(new, stream)) => {
                // A flush may have come before the pad's STREAM_START.
                let begun = pad.sticky_event::<gst::event::StreamStart>(0).is_some();
                if stream.is_some() || !begun {
                    let group = stream.flatten().or_else(|| self.group());
                    self.start_stream(pad, group);
                }
                let mut new = gst::FormattedSegment::clone(&new);
                if recorder::follows(pad) {
                    self.text.needs_text();
                }
                if new.rate() > 0.0 {
                    // Answers, and GAPs, may come after the end of the video's segment.
                    new.set_stop(gst::ClockTime::NONE);
                }
                pad.push_event(gst::event::Segment::new(&new));
                *segment = Some(new.into());
            }
            Out::Mark(Mark::Eos) => {
                pad.push_event(gst::event::Eos::new());
            }
            // The recorder may have been linked after the segment.
            Out::Gap { .. } if recorder::follows(pad) => self.text.needs_text(),
            Out::Gap { start, end } => {
                if let (Some(start), Some(end)) = (at(segment, start), at(segment, end)) {
                    let duration = end.checked_sub(start);
                    pad.push_event(gst::event::Gap::builder(start).duration(duration).build());
                }
            }
            Out::Text { start, end, text } => {
                let mut buffer = gst::Buffer::from_slice(text.into_bytes());
                if let Some(buffer) = buffer.get_mut() {
                    let (start, end) = (at(segment, start), at(segment, end));
                    buffer.set_pts(start);
                    buffer.set_duration(start.and_then(|start| end?.checked_sub(start)));
                }
                match pad.push(buffer) {
                    Ok(_) | Err(gst::FlowError::NotLinked | gst::FlowError::Flushing) => (),
                    Err(error) => {
                        gst::warning!(CAT, imp = self, "The text pad's peer says {error}");
                        self.text.refuse();
                    }
                }
            }
        }
    }

    fn text_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        let done = gst::Pad::query_default(pad, Some(&*self.obj()), query);
        if let gst::QueryViewMut::Latency(query) = query.view_mut()
            && done
        {
            let (live, min, max) = time::of_latency(query);
            let settings = lock(&self.settings).clone();
            if let (true, Some(min)) = (live, min) {
                let own = match placing(&settings, live) {
                    // A text comes after the end of its window, with the answer.
                    Placing::Span => hold::longest_hold(&settings),
                    // A text starts at the video's position when it comes.
                    Placing::Answer { .. } => gst::ClockTime::ZERO,
                };
                let own = own.max(self.latency(&settings));
                let max = max.filter(|_| own.is_zero());
                query.set(true, min.saturating_add(own), max);
            }
        }
        done
    }
}
