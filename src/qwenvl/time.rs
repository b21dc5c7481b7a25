//! Times that cannot overflow: the one place where numbers become times.
//!
//! Any 64 bits may come from outside as a time: in a buffer, an event, a segment or a property.
//! `GST_CLOCK_TIME_NONE` is no time, and a [`gst::ClockTime`] made of it panics. What lies behind
//! [`LAST`] is a "negative" time: GStreamer's differences of times are signed.

use std::time::Duration;

/// The last time that a frame can have, in nanoseconds: `G_MAXINT64`.
pub(super) const LAST: u64 = i64::MAX as u64;

/// These nanoseconds as a time; more than it can hold is the last time there is.
#[allow(clippy::disallowed_methods, reason = "here it cannot panic")]
pub(super) fn clock_time(nanos: u64) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(nanos.min(gst::ClockTime::MAX.nseconds()))
}

/// The time, unless it is a "negative" one.
pub(super) fn sane(time: gst::ClockTime) -> Option<gst::ClockTime> {
    (time.nseconds() <= LAST).then_some(time)
}

/// Where what starts here and lasts so long ends. A duration that leads out of time is none.
pub(super) fn end(start: gst::ClockTime, duration: gst::ClockTime) -> gst::ClockTime {
    sane(start.saturating_add(duration)).unwrap_or(start)
}

/// A property's time to wait: none is for ever, as `GST_CLOCK_TIME_NONE` says.
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
