//! Events on the sink pad.

use std::sync::Arc;
use std::time::Duration;

use gst::glib;
use gst::subclass::prelude::*;

use super::imp::{CAT, QwenVL, lock};
use super::memory;
use super::session::{Drained, Interrupted, Session};
use super::settings::Mode;
use super::text::Mark;
use super::time::{self, clock_time};

/// How long a flush or EOS waits for the worker. The worker reacts at once, unless it is in a
/// handler of the application.
const WORKER_TIMEOUT: Duration = Duration::from_secs(1);

impl QwenVL {
    pub(super) fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        gst::log!(CAT, imp = self, "{event:?}");
        let goes_on = match event.view() {
            gst::EventView::StreamStart(start) => {
                self.forget_live();
                self.break_stream();
                let mut stream = lock(&self.stream);
                (stream.orientation, stream.started) = (None, Some(start.group_id()));
                true
            }
            gst::EventView::Tag(tag) => {
                self.set_orientation(tag.tag());
                true
            }
            gst::EventView::Caps(caps) => self.set_caps(caps.caps()),
            gst::EventView::Segment(segment) => {
                self.break_stream();
                let segment = segment.segment().downcast_ref::<gst::ClockTime>();
                let segment = segment.filter(|segment| time::has_running_time(segment));
                if segment.is_none() {
                    gst::warning!(
                        CAT,
                        imp = self,
                        "Without a TIME segment that gives running times nothing is sampled"
                    );
                }
                let segment = segment.cloned().map(Arc::new);
                let new_stream = {
                    let mut stream = lock(&self.stream);
                    stream.segment.clone_from(&segment);
                    stream.started.take()
                };
                if let Some(segment) = segment {
                    self.text_segment(segment, new_stream);
                }
                true
            }
            // The EOS of a segment seek. The next segment follows at once, so this does not wait.
            gst::EventView::SegmentDone(_) => {
                self.break_stream();
                true
            }
            gst::EventView::Gap(gap) => {
                self.handle_gap(time::of_gap(gap));
                true
            }
            gst::EventView::FlushStart(_) => {
                // First, or the end of the windows would release held buffers.
                self.hold_flush_start(&event);
                if let Some(session) = self.session() {
                    session.flush_start();
                }
                self.text_flush_start(&event);
                return true;
            }
            gst::EventView::FlushStop(_) => {
                {
                    let mut stream = lock(&self.stream);
                    stream.restart();
                    stream.segment = None;
                }
                if let Some(session) = self.session() {
                    self.warn_if_late(session.flush_stop(self.worker_timeout()));
                }
                self.text_flush_stop(&event);
                self.hold_flush_stop(&event);
                return true;
            }
            gst::EventView::Eos(_) => {
                let ended = self.end_of_stream();
                if ended {
                    self.text.mark(Mark::Eos);
                }
                ended
            }
            _ => true,
        };
        if goes_on && self.hold.active() && event.is_serialized() {
            return self.hold_event(event);
        }
        goes_on && gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    /// Closes the open windows, because the stream breaks here. Never waits.
    fn break_stream(&self) {
        let (at, part) = {
            let mut stream = lock(&self.stream);
            (stream.restart(), stream.part())
        };
        if let Some(session) = self.session() {
            session.push_break(at, part);
        }
    }

    /// Handles a GAP: windows that end in it close without the next frame. Never waits.
    fn handle_gap(&self, (start, duration): (Option<gst::ClockTime>, Option<gst::ClockTime>)) {
        let Some(start) = start else { return };
        let skipped = lock(&self.stream).handle_gap(start, duration.unwrap_or_default());
        if let (Some((to, part)), Some(session)) = (skipped, self.session()) {
            session.push_gap(to, part);
        }
    }

    fn set_caps(&self, caps: &gst::CapsRef) -> bool {
        let info = match self.check_caps(caps) {
            Ok(info) => info,
            Err(error) => {
                self.fail(&error);
                return false;
            }
        };
        if let Err(error) = self.check_rate(&info) {
            // Later in the stream the windows are dropped as too short instead.
            if lock(&self.stream).info.is_none() {
                self.fail(&error);
                return false;
            }
            let text = error.message();
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{text}"));
        }
        if lock(&self.stream).info.as_deref() != Some(&info) {
            self.break_stream();
            lock(&self.stream).info = Some(Arc::new(info));
        }
        true
    }

    /// Takes an orientation tag. A turned picture has another shape, so the windows close as with
    /// new caps.
    fn set_orientation(&self, tags: &gst::TagListRef) {
        let orientation = gst_video::VideoOrientationMethod::from_tag(tags);
        if orientation.is_some() && lock(&self.stream).orientation != orientation {
            self.break_stream();
            lock(&self.stream).orientation = orientation;
        }
    }

    fn check_caps(&self, caps: &gst::CapsRef) -> Result<gst_video::VideoInfo, glib::Error> {
        if let Some(text) = memory::refusal(caps) {
            return Err(glib::Error::new(gst::StreamError::Format, &text));
        }
        memory::layout(caps).map_err(|error| {
            let text = format!("{error}: {caps}");
            glib::Error::new(gst::StreamError::Format, &text)
        })
    }

    /// Whether a window holds enough frames for a video.
    fn check_rate(&self, info: &gst_video::VideoInfo) -> Result<(), glib::Error> {
        let settings = lock(&self.settings).clone();
        let (fps, duration) = (info.fps(), settings.window_duration);
        if settings.mode == Mode::Video && fps.numer() > 0 && holds(duration, fps) < 2 {
            let text = format!(
                "window-duration is {}, which holds less than two frames of a video at {fps} \
                 frames a second",
                clock_time(duration)
            );
            return Err(glib::Error::new(gst::LibraryError::Settings, &text));
        }
        Ok(())
    }

    /// Closes the last window and waits for the last answers. `true` if EOS is forwarded.
    fn end_of_stream(&self) -> bool {
        self.check_time_at_end();
        self.break_stream();
        let Some(session) = self.session() else {
            return true;
        };
        let timeout = match self.is_worker() {
            true => Some(Duration::ZERO),
            false => time::wait(lock(&self.settings).eos_timeout),
        };
        match self.drain(&session, timeout) {
            Ok(()) => true,
            Err(Interrupted::Failed) => {
                // Terminal messages come before EOS.
                self.warn_if_late(session.wait_finished(self.worker_timeout()));
                true
            }
            Err(Interrupted::Flushing) => {
                gst::debug!(
                    CAT,
                    imp = self,
                    "Flushed while waiting for the last answers"
                );
                false
            }
        }
    }

    fn drain(&self, session: &Session, timeout: Option<Duration>) -> Result<(), Interrupted> {
        match session.drain(timeout)? {
            Drained::Yes => (),
            Drained::TimedOut => {
                session.expire();
                let drained = session.drain(Some(self.worker_timeout()))?;
                self.warn_if_late(drained == Drained::Yes);
            }
            Drained::InHandler => self.warn_if_late(false),
        }
        Ok(())
    }

    /// How long to wait for the worker: zero in its own thread, which would wait for itself.
    fn worker_timeout(&self) -> Duration {
        if self.is_worker() {
            Duration::ZERO
        } else {
            WORKER_TIMEOUT
        }
    }

    fn warn_if_late(&self, in_time: bool) {
        if !in_time {
            gst::warning!(
                CAT,
                imp = self,
                "A handler of the application is not done: some messages come late"
            );
        }
    }
}

/// Whole frame intervals in a duration.
pub(super) fn holds(duration: u64, fps: gst::Fraction) -> u64 {
    let part = |v: i32| u64::try_from(v).unwrap_or(0);
    let per = part(fps.denom()).saturating_mul(gst::ClockTime::SECOND.nseconds());
    let frames = u128::from(duration)
        .saturating_mul(u128::from(part(fps.numer())))
        .checked_div(u128::from(per));
    let frames = frames.unwrap_or(0);
    u64::try_from(frames).unwrap_or(u64::MAX)
}
