//! The streaming thread: what happens to every buffer.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Instant;

use gst::prelude::*;
use gst::subclass::prelude::*;
use qwen3_vl::window::{Kept, Sampler};

use super::failure;
use super::hooks::Stage;
use super::imp::{CAT, QwenVL, lock};
use super::sample::{Held, Plan, Sample};
use super::settings::{Overload, Settings};
use crate::message::Segment;
use crate::meta;

/// What the streaming thread knows of its stream.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) info: Option<Arc<gst_video::VideoInfo>>,
    pub(super) orientation: Option<gst_video::VideoOrientationMethod>,
    pub(super) segment: Option<Segment>,
    /// A new stream has begun, of this group, and had no segment yet.
    pub(super) started: Option<Option<gst::GroupId>>,
    /// Running time at the end of the last buffer.
    pub(super) position: Option<gst::ClockTime>,
    live: Option<bool>,
    sampler: Option<Sampler>,
    current: Option<Current>,
}

/// The settings in force, and those that they were made of.
struct Current {
    seen: Arc<Settings>,
    plan: Arc<Plan>,
}

/// A frame that is due.
struct Due {
    pts: gst::ClockTime,
    kept: Kept,
}

impl Stream {
    /// The stream breaks here. Gives the running time at which it did.
    pub(super) fn restart(&mut self) -> Option<gst::ClockTime> {
        if let Some(sampler) = &mut self.sampler {
            sampler.reset();
        }
        self.position.take()
    }

    /// Whether upstream is live, if it has been asked.
    pub(super) fn live(&self) -> Option<bool> {
        self.live
    }

    /// Whether the buffer is to be kept.
    fn due(&mut self, buffer: &gst::BufferRef, plan: &Plan) -> Option<Due> {
        let segment = self.segment.as_ref()?;
        let pts = buffer.pts()?;
        let running_time = segment.to_running_time(pts)?;
        // In running time, which a rate stretches; the segment may stop before the frame does.
        let end = pts.saturating_add(buffer.duration().unwrap_or_default());
        let end = segment.stop().map_or(end, |stop| end.min(stop));
        self.position = segment.to_running_time(end).max(Some(running_time));
        let sampler = self.sampler.get_or_insert_with(|| Sampler::new(plan.rules));
        let kept = sampler.push(Some(running_time.nseconds()))?;
        Some(Due { pts, kept })
    }
}

impl QwenVL {
    pub(super) fn chain(
        &self,
        _pad: &gst::Pad,
        mut buffer: gst::Buffer,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let (session, hooks) = self.session_and_hooks().ok_or(gst::FlowError::Flushing)?;
        let descriptions = session.take_descriptions()?;
        if !descriptions.is_empty() {
            meta::add(buffer.make_mut(), descriptions);
        }
        let sample = panic::catch_unwind(AssertUnwindSafe(|| {
            (hooks.at)(Stage::Sampling);
            self.sample(&buffer)
        }));
        match sample {
            Ok(None) => (),
            Ok(Some((sample, live))) => {
                let wait = sample.overload == Overload::Block;
                if wait || !live {
                    session.wait_ready()?;
                }
                session.push_frame(sample, wait)?;
            }
            Err(panic) => {
                let error = failure::panicked("sampling", &*panic);
                failure::report(&self.obj(), &session, &error);
                return Err(gst::FlowError::Error);
            }
        }
        if !self.text.active() {
            return self.srcpad.push(buffer);
        }
        let position = lock(&self.stream).position;
        self.text.push_begins(position);
        let flow = self.srcpad.push(buffer);
        self.text.push_ends();
        flow
    }

    /// The sample for the worker, if this buffer is to be kept; and whether the stream is live.
    fn sample(&self, buffer: &gst::Buffer) -> Option<(Box<Sample>, bool)> {
        let plan = self.plan()?;
        let (due, info, orientation, segment, live) = {
            let mut stream = lock(&self.stream);
            let due = stream.due(buffer, &plan)?;
            (
                due,
                stream.info.clone()?,
                stream.orientation,
                stream.segment.clone()?,
                stream.live,
            )
        };
        // Also true for the first buffer.
        let live = match live {
            Some(live) if !self.srcpad.check_reconfigure() => live,
            _ => self.ask_live(),
        };
        let frame = match Held::new(buffer, &self.held) {
            Ok((frame, copied)) => {
                if copied && let Some(session) = self.session() {
                    session.count(|stats| stats.copied += 1);
                }
                frame
            }
            Err(error) => {
                gst::warning!(CAT, imp = self, "Could not copy a frame: {error}");
                return None;
            }
        };
        let sample = Sample {
            frame,
            info,
            orientation,
            segment,
            pts: due.pts,
            running_time: gst::ClockTime::from_nseconds(due.kept.time),
            next: due.kept.next,
            overload: plan.settings.overload.resolve(live),
            plan,
            arrived: Instant::now(),
        };
        Some((Box::new(sample), live))
    }

    /// Asks upstream whether it is live. Without an answer it counts as not live.
    pub(super) fn ask_live(&self) -> bool {
        let mut query = gst::query::Latency::new();
        let live = self.sinkpad.peer_query(&mut query) && query.result().0;
        gst::debug!(CAT, imp = self, "Upstream is live: {live}");
        lock(&self.stream).live = Some(live);
        live
    }

    /// The checked settings; after a change to ones that make no sense, still the last good ones.
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

    /// Forgets whether upstream is live.
    pub(super) fn forget_live(&self) {
        lock(&self.stream).live = None;
    }
}
