//! The streaming thread: what happens to every buffer.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Instant;

use gst::prelude::*;
use gst::subclass::prelude::*;
use qwen3_vl_core::window::{FrameSampler, Kept};

use super::failure;
use super::hold::StreamPosition;
use super::hooks::Stage;
use super::imp::{CAT, QwenVL, lock};
use super::sample::{self, MAX_SAMPLED, Plan, Sample, SampledBuffer};
use super::session::Session;
use super::settings::{Overload, Settings};
use super::stats::count;
use super::time;
use crate::message::Segment;
use crate::meta;

/// The state of the stream in the streaming thread.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) info: Option<Arc<gst_video::VideoInfo>>,
    pub(super) orientation: Option<gst_video::VideoOrientationMethod>,
    pub(super) segment: Option<Segment>,
    /// The group of a new stream that has had no segment yet.
    pub(super) started: Option<Option<gst::GroupId>>,
    /// Running time at the end of the last buffer.
    pub(super) position: Option<gst::ClockTime>,
    /// Position of the last buffer with a time.
    reached: StreamPosition,
    live: Option<bool>,
    sampler: Option<FrameSampler>,
    current: Option<Current>,
    untimed: Untimed,
}

/// Counts frames without a time, which cannot be described.
#[derive(Default)]
struct Untimed {
    /// Frames without a time since the last one with a time.
    in_a_row: u64,
    frames: u64,
    timed: u64,
    /// The WARNING has been posted.
    warned: bool,
}

impl Untimed {
    /// Frames in a row before the WARNING: a stream may begin with a few.
    const MANY: u64 = 10;

    /// Counts a frame. Returns whether to post the WARNING now.
    fn frame(&mut self, timed: bool) -> bool {
        if timed {
            count(&mut self.timed);
            self.in_a_row = 0;
        } else {
            count(&mut self.frames);
            count(&mut self.in_a_row);
        }
        self.in_a_row >= Self::MANY && self.warn_once()
    }

    /// The stream ends. Returns whether to post the WARNING now.
    fn end(&mut self) -> bool {
        self.frames > self.timed && self.warn_once()
    }

    fn warn_once(&mut self) -> bool {
        !std::mem::replace(&mut self.warned, true)
    }
}

/// The plan in force, and the settings that it was made of.
struct Current {
    seen: Arc<Settings>,
    plan: Arc<Plan>,
}

/// A frame that the sampler keeps.
struct Due {
    pts: gst::ClockTime,
    kept: Kept,
}

/// The result of sampling a buffer.
struct Seen {
    sample: Option<Box<Sample>>,
    /// Its position; `None` for a buffer without a time.
    at: Option<StreamPosition>,
    live: bool,
}

impl Stream {
    /// The stream breaks here. Returns the running time of the break.
    pub(super) fn restart(&mut self) -> Option<gst::ClockTime> {
        if let Some(sampler) = &mut self.sampler {
            sampler.reset();
        }
        self.begin_part();
        self.position.take()
    }

    fn begin_part(&mut self) {
        let part = self.reached.part.wrapping_add(1);
        self.reached = StreamPosition { part, time: 0 };
    }

    /// Number of breaks so far.
    pub(super) fn part(&self) -> u64 {
        self.reached.part
    }

    /// Whether upstream is live; `None` before the query.
    pub(super) fn live(&self) -> Option<bool> {
        self.live
    }

    /// Handles a GAP that starts at the PTS `start`. Returns its end in running time, and the part
    /// of the stream.
    pub(super) fn handle_gap(
        &mut self,
        start: gst::ClockTime,
        duration: gst::ClockTime,
    ) -> Option<(gst::ClockTime, u64)> {
        let end = self.end_of(time::sane(start)?, duration)?;
        self.position = self.position.max(Some(end));
        Some((end, self.reached.part))
    }

    /// The running time at the end of `duration` from the PTS `start` on. The segment's rate scales
    /// the duration, and the segment's stop bounds it.
    fn end_of(&self, start: gst::ClockTime, duration: gst::ClockTime) -> Option<gst::ClockTime> {
        let segment = self.segment.as_ref()?;
        let end = time::end(start, duration);
        let end = segment.stop().map_or(end, |stop| end.min(stop));
        time::sane(segment.to_running_time(end)?)
    }

    /// The buffer's position, and the frame if the sampler keeps it; `None` for a buffer without a
    /// time.
    fn stream_position(
        &mut self,
        buffer: &gst::BufferRef,
        plan: &Plan,
    ) -> Option<(StreamPosition, Option<Due>)> {
        let segment = self.segment.as_ref()?;
        let pts = time::sane(buffer.pts()?)?;
        let running_time = time::sane(segment.to_running_time(pts)?)?;
        let end = self.end_of(pts, buffer.duration().unwrap_or_default());
        self.position = end.max(Some(running_time));
        self.untimed.frame(true);
        let sampler = self
            .sampler
            .get_or_insert_with(|| FrameSampler::new(plan.rules));
        let kept = sampler.push(Some(running_time.nseconds()));
        let time = kept.map_or(running_time.nseconds(), |kept| kept.time);
        if kept.is_some() && time < self.reached.time {
            // Time jumps back: windows of the new part may start earlier.
            self.begin_part();
        }
        self.reached.time = self.reached.time.max(time);
        Some((self.reached, kept.map(|kept| Due { pts, kept })))
    }
}

impl QwenVL {
    pub(super) fn chain(
        &self,
        _pad: &gst::Pad,
        mut buffer: gst::Buffer,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let (session, hooks) = self.session_and_hooks().ok_or(gst::FlowError::Flushing)?;
        if lock(&self.stream).info.is_none() {
            self.fail(&gst::glib::Error::new(
                gst::CoreError::Negotiation,
                "What comes in is no raw video: put decodebin in front",
            ));
            return Err(gst::FlowError::NotNegotiated);
        }
        let descriptions = session.take_descriptions()?;
        self.attach(&mut buffer, descriptions);
        let holds = self.hold.active();
        let seen = panic::catch_unwind(AssertUnwindSafe(|| {
            (hooks.at)(Stage::Sampling);
            if holds {
                self.free_from_pool(&mut buffer, &session);
            }
            self.look_at(&buffer, &session)
        }));
        let Seen { sample, at, live } = seen.map_err(|panic| {
            let error = failure::panicked("sampling", &*panic);
            failure::report(&self.obj(), &session, &error);
            gst::FlowError::Error
        })?;
        if at.is_none() {
            self.check_time(&buffer);
        }
        if let Some(sample) = sample {
            let wait = sample.overload == Overload::Block;
            if wait || !live {
                session.wait_ready()?;
            }
            session.push_frame(sample, wait)?;
        }
        if holds {
            return self.hold(buffer, at, live);
        }
        let position = lock(&self.stream).position;
        self.push(buffer, position)
    }

    /// Counts a frame without a running time; posts a WARNING after [`Untimed::MANY`] without a
    /// PTS.
    fn check_time(&self, buffer: &gst::BufferRef) {
        let untimed = {
            let mut stream = lock(&self.stream);
            // A buffer outside of the segment has a time all the same.
            let timed = stream.segment.is_some() && buffer.pts().is_some();
            stream.untimed.frame(timed)
        };
        if untimed {
            self.warn_of_untimed();
        }
    }

    /// The stream ends: a short one may have had no times, and no WARNING yet.
    pub(super) fn check_time_at_end(&self) {
        let untimed = lock(&self.stream).untimed.end();
        if untimed {
            self.warn_of_untimed();
        }
    }

    fn warn_of_untimed(&self) {
        gst::element_imp_warning!(
            self,
            gst::StreamError::Format,
            ("The frames have no timestamps, so none is described: let the source give them \
                 (appsrc: format=time and timestamps or do-timestamp=true; still images: \
                 imagefreeze, or videorate behind a decoder that knows the frame rate)"),
            ["Frames are sampled by PTS in a TIME segment"]
        );
    }

    /// Copies a buffer that is about to be held, if its pool has a maximum size.
    ///
    /// Only system memory is copied: downstream negotiated the other kinds.
    fn free_from_pool(&self, buffer: &mut gst::Buffer, session: &Session) {
        let system = || {
            let caps = self.sinkpad.current_caps();
            caps.is_some_and(|caps| {
                let features = caps.features(0);
                features.is_none_or(|features| features.contains("memory:SystemMemory"))
            })
        };
        if sample::is_scarce(buffer)
            && system()
            && let Ok(copy) = buffer.copy_deep()
        {
            *buffer = copy;
            session.count(|stats| count(&mut stats.copied));
        }
    }

    /// Adds the descriptions as meta to the buffer.
    pub(super) fn attach(&self, buffer: &mut gst::Buffer, descriptions: Vec<gst::Structure>) {
        if !descriptions.is_empty() {
            #[cfg(feature = "analytics")]
            self.attach_analytics(buffer.make_mut(), &descriptions);
            meta::add(buffer.make_mut(), descriptions);
        }
    }

    /// Pushes a buffer downstream; `position` is the running time at its end, for the text pad.
    pub(super) fn push(
        &self,
        buffer: gst::Buffer,
        position: Option<gst::ClockTime>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        if !self.text.active() {
            return self.srcpad.push(buffer);
        }
        self.text.push_begins(position);
        let flow = self.srcpad.push(buffer);
        self.text.push_ends();
        flow
    }

    /// A buffer's position and, if it is due, the sample for the worker.
    fn look_at(&self, buffer: &gst::Buffer, session: &Session) -> Seen {
        let mut seen = Seen {
            sample: None,
            at: None,
            live: lock(&self.stream).live == Some(true),
        };
        let Some(plan) = self.plan() else { return seen };
        let position = lock(&self.stream).stream_position(buffer, &plan);
        let Some((at, due)) = position else {
            return seen;
        };
        seen.at = Some(at);
        if let Some(due) = due {
            // `live` is unset for the first buffer.
            if self.srcpad.check_reconfigure() || lock(&self.stream).live.is_none() {
                seen.live = self.ask_live();
            }
            let sample = self.sample(buffer, session, plan, due, at.part, seen.live);
            seen.sample = sample.map(Box::new);
        }
        seen
    }

    fn sample(
        &self,
        buffer: &gst::Buffer,
        session: &Session,
        plan: Arc<Plan>,
        due: Due,
        part: u64,
        live: bool,
    ) -> Option<Sample> {
        let (info, orientation, segment) = {
            let stream = lock(&self.stream);
            let info = stream.info.clone()?;
            (info, stream.orientation, stream.segment.clone()?)
        };
        let overload = plan.settings.overload.resolve(live);
        // Before a copy is made of a frame that would be skipped.
        if overload != Overload::Block && !session.has_free_slot() {
            return None;
        }
        // With attach=window the buffer is held anyway, so one more reference costs upstream
        // nothing.
        let most = if self.hold.active() {
            usize::MAX
        } else {
            MAX_SAMPLED
        };
        let frame = match SampledBuffer::new(buffer, &self.sampled_buffers, most) {
            Ok((frame, copied)) => {
                if copied {
                    session.count(|stats| count(&mut stats.copied));
                }
                frame
            }
            Err(error) => {
                gst::warning!(CAT, imp = self, "Could not copy a frame: {error}");
                return None;
            }
        };
        let running_time = time::clock_time(due.kept.time);
        let now = live.then(|| self.obj().current_running_time()).flatten();
        Some(Sample {
            frame,
            info,
            orientation,
            segment,
            pts: due.pts,
            running_time,
            next: due.kept.next,
            part,
            overload,
            plan,
            arrived: Instant::now(),
            delay: now.map(|now| now.saturating_sub(running_time)),
        })
    }

    /// Asks upstream by a LATENCY query whether it is live; without an answer it is not.
    pub(super) fn ask_live(&self) -> bool {
        let mut query = gst::query::Latency::new();
        let live = self.sinkpad.peer_query(&mut query) && time::of_latency(&query).0;
        gst::debug!(CAT, imp = self, "Upstream is live: {live}");
        lock(&self.stream).live = Some(live);
        live
    }

    /// The checked settings. After a change to invalid ones the last valid ones stay in force.
    fn plan(&self) -> Option<Arc<Plan>> {
        let settings = lock(&self.settings).clone();
        if let Some(current) = &lock(&self.stream).current
            && Arc::ptr_eq(&current.seen, &settings)
        {
            return Some(current.plan.clone());
        }
        let rules = settings.rules();
        if let Err(error) = &rules {
            gst::element_imp_warning!(
                self,
                gst::LibraryError::Settings,
                ("{error}"),
                ["The settings before stay in force"]
            );
        }
        let mut stream = lock(&self.stream);
        let plan = match (rules, &stream.current) {
            (Ok(rules), _) => {
                if let Some(sampler) = &mut stream.sampler {
                    sampler.set_rules(rules);
                }
                Arc::new(Plan {
                    settings: Settings::clone(&settings),
                    rules,
                })
            }
            (Err(_), Some(current)) => current.plan.clone(),
            (Err(_), None) => return None,
        };
        stream.current = Some(Current {
            seen: settings,
            plan: plan.clone(),
        });
        Some(plan)
    }

    /// Upstream may be another one: ask it again whether it is live.
    pub(super) fn forget_live(&self) {
        lock(&self.stream).live = None;
    }
}
