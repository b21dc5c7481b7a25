//! A sampled frame, as the streaming thread hands it to the worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use gst::glib::translate::from_glib_none;
use gst::prelude::*;
use qwen3_vl_core::window::{Nanos, WindowRules};

use super::hold::StreamPosition;
use super::settings::{Overload, Settings};
use super::time;
use crate::message::Segment;

/// Most of upstream's buffers that the worker holds at once. Beyond that frames are copied, so that
/// the pool of a camera or a decoder never runs dry.
pub(super) const MAX_SAMPLED: usize = 2;

/// A sampled frame, and the state of the stream that its window needs.
pub(super) struct Sample {
    pub(super) frame: SampledBuffer,
    pub(super) info: Arc<gst_video::VideoInfo>,
    /// The stream's orientation tag.
    pub(super) orientation: Option<gst_video::VideoOrientationMethod>,
    pub(super) segment: Segment,
    pub(super) pts: gst::ClockTime,
    /// The due time that it was sampled for, see [`Kept::time`](qwen3_vl_core::window::Kept).
    pub(super) running_time: gst::ClockTime,
    /// Running time in nanoseconds before which no other frame is sampled.
    pub(super) next: Nanos,
    /// Number of breaks of the stream before it.
    pub(super) part: u64,
    pub(super) plan: Arc<Plan>,
    /// The overload policy of this stream; never `Auto`.
    pub(super) overload: Overload,
    /// When the streaming thread sampled it.
    pub(super) arrived: Instant,
    /// Its delay behind its running time, by the pipeline's clock; live video only.
    pub(super) delay: Option<gst::ClockTime>,
}

impl Sample {
    /// Its position in the stream.
    pub(super) fn stream_position(&self) -> StreamPosition {
        StreamPosition {
            part: self.part,
            time: self.running_time.nseconds(),
        }
    }
}

/// Checked settings, as they were when a frame was sampled.
pub(super) struct Plan {
    pub(super) settings: Settings,
    pub(super) rules: WindowRules,
}

/// A sampled buffer: a counted reference to upstream's, or a copy.
pub(super) struct SampledBuffer {
    buffer: gst::Buffer,
    /// Behind the buffer, because fields are dropped in order: the buffer is back in its pool
    /// before the count goes down.
    _counted: Option<Counted>,
}

/// Counts one of upstream's buffers while it lives.
struct Counted(Arc<AtomicUsize>);

impl SampledBuffer {
    /// Takes a reference if fewer than `most` of upstream's buffers are held, else a copy. The flag
    /// says whether it is a copy.
    pub(super) fn new(
        buffer: &gst::Buffer,
        count: &Arc<AtomicUsize>,
        most: usize,
    ) -> Result<(Self, bool), gst::glib::BoolError> {
        // Only the streaming thread adds, so the count cannot rise between the two steps.
        if count.load(Ordering::Acquire) < most {
            count.fetch_add(1, Ordering::AcqRel);
            let held = Self {
                buffer: buffer.clone(),
                _counted: Some(Counted(count.clone())),
            };
            return Ok((held, false));
        }
        let copy = Self {
            buffer: buffer.copy_deep()?,
            _counted: None,
        };
        Ok((copy, true))
    }

    pub(super) fn buffer(&self) -> &gst::BufferRef {
        &self.buffer
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether the buffer comes from a bounded pool.
pub(super) fn is_scarce(buffer: &gst::BufferRef) -> bool {
    // SAFETY: a buffer has a reference to the pool that it came from, or NULL.
    let pool: Option<gst::BufferPool> = unsafe { from_glib_none((*buffer.as_ptr()).pool) };
    let params = pool.and_then(|pool| pool.config().params());
    params.is_some_and(|(_, _, _, most)| most != 0)
}

/// Running time at the end of the segment, if it has one.
pub(super) fn end_of(segment: &gst::FormattedSegment<gst::ClockTime>) -> Option<gst::ClockTime> {
    let last = if segment.rate() < 0.0 {
        segment.start()
    } else {
        segment.stop()
    };
    segment.to_running_time(last)
}

/// When the camera took the frame, in nanoseconds since 1970 (UTC), from its reference timestamp.
pub(super) fn utc(buffer: &gst::BufferRef) -> Option<u64> {
    /// Seconds from 1900, where NTP begins, to 1970.
    const NTP_TO_UNIX: u64 = 2_208_988_800;
    /// Leap seconds, which PTP does not have, since 2017; also what GStreamer assumes.
    const PTP_TO_UNIX: u64 = 37;
    const SECOND: u64 = gst::ClockTime::SECOND.nseconds();
    buffer
        .iter_meta::<gst::ReferenceTimestampMeta>()
        .find_map(|meta| {
            let time = time::of_reference(&meta)?.nseconds();
            match meta.reference().structure(0)?.name().as_str() {
                "timestamp/x-unix" => Some(time),
                "timestamp/x-ntp" => time.checked_sub(NTP_TO_UNIX * SECOND),
                "timestamp/x-ptp" => time.checked_sub(PTP_TO_UNIX * SECOND),
                _ => None,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_camera() -> Result<(), gst::glib::Error> {
        gst::init()?;
        // 2024-01-01 00:00:00 UTC, by `date`, and RFC 868's 1970 in seconds since 1900.
        const NEW_YEAR: u64 = 1_704_067_200;
        for (reference, seconds, known) in [
            ("timestamp/x-unix", NEW_YEAR, true),
            ("timestamp/x-ntp", NEW_YEAR + 2_208_988_800, true),
            (
                "timestamp/x-ntp,host=(string)clock",
                NEW_YEAR + 2_208_988_800,
                true,
            ),
            ("timestamp/x-ptp,domain=0", NEW_YEAR + 37, true),
            ("timestamp/x-system-monotonic", NEW_YEAR, false),
        ] {
            let mut buffer = gst::Buffer::new();
            if let Ok(caps) = reference.parse() {
                let time = gst::ClockTime::from_seconds(seconds);
                gst::ReferenceTimestampMeta::add(buffer.make_mut(), &caps, time, None);
            }
            let wanted = known.then_some(NEW_YEAR * 1_000_000_000);
            assert_eq!(utc(&buffer), wanted, "{reference}");
        }
        Ok(())
    }
}
