//! Times that cannot overflow. Only this module turns numbers into times.
//!
//! Any 64 bits may come from outside as a time: in a buffer, an event, a segment or a property.
//! `GST_CLOCK_TIME_NONE` is no time, and a [`gst::ClockTime`] made of it panics. A time above
//! [`LAST`] is "negative": GStreamer's differences of times are signed.

use std::time::Duration;

use gst::glib::translate::from_glib;

/// The last time that a frame can have, in nanoseconds: `G_MAXINT64`.
pub(super) const LAST: u64 = i64::MAX as u64;

/// Nanoseconds as a time, at most [`gst::ClockTime::MAX`].
#[allow(clippy::disallowed_methods, reason = "here it cannot panic")]
pub(super) fn clock_time(nanos: u64) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(nanos.min(gst::ClockTime::MAX.nseconds()))
}

/// The time, unless it is a "negative" one.
pub(super) fn sane(time: gst::ClockTime) -> Option<gst::ClockTime> {
    (time.nseconds() <= LAST).then_some(time)
}

/// `start` + `duration`; `start` where the sum is no valid time.
pub(super) fn end(start: gst::ClockTime, duration: gst::ClockTime) -> gst::ClockTime {
    sane(start.saturating_add(duration)).unwrap_or(start)
}

/// Start and duration of a GAP. `Gap::get` panics if the first is missing.
pub(super) fn of_gap(gap: &gst::event::Gap) -> (Option<gst::ClockTime>, Option<gst::ClockTime>) {
    let (mut start, mut duration) = (0, 0);
    // SAFETY: the event lives for the call, which writes both times.
    unsafe {
        gst::ffi::gst_event_parse_gap(gap.as_mut_ptr(), &mut start, &mut duration);
        (from_glib(start), from_glib(duration))
    }
}

/// The answer to a LATENCY query: live, minimum and maximum. `Latency::result` panics if the
/// minimum is missing.
pub(super) fn of_latency(
    query: &gst::query::Latency,
) -> (bool, Option<gst::ClockTime>, Option<gst::ClockTime>) {
    let (mut live, mut min, mut max) = (0, 0, 0);
    // SAFETY: the query lives for the call, which writes all three.
    unsafe {
        gst::ffi::gst_query_parse_latency(query.as_mut_ptr(), &mut live, &mut min, &mut max);
        (from_glib(live), from_glib(min), from_glib(max))
    }
}

/// The time in a reference timestamp. `ReferenceTimestampMeta::timestamp` panics if it has none.
pub(super) fn of_reference(
    meta: &gst::MetaRef<'_, gst::ReferenceTimestampMeta>,
) -> Option<gst::ClockTime> {
    // SAFETY: the meta lives as long as it is borrowed.
    unsafe { from_glib((*meta.as_ptr()).timestamp) }
}

/// Whether the segment gives running times. GStreamer does not check segments: one with a negative
/// rate needs a stop to count from, and any needs a finite rate.
pub(super) fn has_running_time(segment: &gst::FormattedSegment<gst::ClockTime>) -> bool {
    let rate = segment.rate();
    if rate > 0.0 {
        return rate.is_finite();
    }
    let length = segment.duration().zip(segment.start());
    let end = length.and_then(|(duration, start)| start.checked_add(duration));
    let stop = segment.stop().or(end);
    let counts = stop.zip(segment.offset());
    rate.is_finite() && counts.is_some_and(|(stop, offset)| stop >= offset)
}

/// The stream time of a PTS, if the segment gives one: with a negative applied rate it needs a stop
/// to count from.
pub(crate) fn stream_time(
    segment: &gst::FormattedSegment<gst::ClockTime>,
    pts: gst::ClockTime,
) -> Option<gst::ClockTime> {
    let rate = segment.applied_rate();
    let says = rate.is_finite() && (rate > 0.0 || segment.stop().is_some());
    says.then(|| segment.to_stream_time(pts)).flatten()
}

/// A property's timeout; `None` is for ever (`GST_CLOCK_TIME_NONE`).
pub(super) fn wait(nanos: u64) -> Option<Duration> {
    (nanos != u64::MAX).then(|| Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst::ClockTime;

    #[test]
    fn the_edges_of_time() {
        let last = clock_time(LAST);
        assert_eq!(clock_time(u64::MAX), ClockTime::MAX);
        assert_eq!(clock_time(u64::MAX - 1), ClockTime::MAX);
        assert_eq!(clock_time(7).nseconds(), 7);
        assert_eq!(sane(last), Some(last));
        assert_eq!(sane(clock_time(LAST + 1)), None);
        assert_eq!(end(ClockTime::ZERO, last), last);
        assert_eq!(end(last, clock_time(1)), last);
        assert_eq!(end(clock_time(5), ClockTime::MAX).nseconds(), 5);
        assert_eq!(wait(u64::MAX), None);
        assert_eq!(wait(u64::MAX - 1), Some(Duration::from_nanos(u64::MAX - 1)));
    }
}
