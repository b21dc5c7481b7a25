//! Whether a live stream has been silent beyond the end of a window. Pure: the running time of the
//! clock is a parameter.

use std::time::{Duration, Instant};

use crate::qwenvl::sample::Sample;

/// How much more delay than the last frame's a frame may have before the stream counts as silent.
const JITTER: gst::ClockTime = gst::ClockTime::from_mseconds(500);
/// Longest time between two checks: the clock's rate may change.
const LONGEST: Duration = Duration::from_secs(1);
/// Shortest time between two checks.
const SHORTEST: Duration = Duration::from_millis(5);

/// The last frame of a live stream.
#[derive(Default)]
pub(super) struct Silence {
    last: Option<Last>,
}

struct Last {
    part: u64,
    /// Its delay behind its running time.
    delay: gst::ClockTime,
}

impl Silence {
    /// A frame came.
    pub(super) fn heard(&mut self, sample: &Sample) {
        let part = sample.part;
        self.last = sample.delay.map(|delay| Last { part, delay });
    }

    /// The part of the stream that is silent.
    pub(super) fn part(&self) -> Option<u64> {
        Some(self.last.as_ref()?.part)
    }

    /// Whether a frame from before the running time `end` would have arrived by now.
    pub(super) fn is_over(&self, end: gst::ClockTime, now: gst::ClockTime) -> bool {
        self.arrival(end).is_some_and(|arrival| arrival <= now)
    }

    /// When to check again.
    pub(super) fn next_check(
        &self,
        end: gst::ClockTime,
        now: Option<gst::ClockTime>,
        time: Instant,
    ) -> Option<Instant> {
        let arrival = self.arrival(end)?;
        // The clock does not run now, but may start.
        let left = now.map_or(LONGEST, |now| arrival.saturating_sub(now).into());
        time.checked_add(left.clamp(SHORTEST, LONGEST))
    }

    /// The clock's running time at which the last frame from before `end` would have arrived.
    fn arrival(&self, end: gst::ClockTime) -> Option<gst::ClockTime> {
        let delay = self.last.as_ref()?.delay;
        Some(end.saturating_add(delay).saturating_add(JITTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> gst::ClockTime {
        gst::ClockTime::from_mseconds(ms)
    }

    #[test]
    fn a_window_is_over_when_its_last_frame_would_have_come() {
        let part = 3;
        let delay = at(200);
        let silence = Silence {
            last: Some(Last { part, delay }),
        };
        assert!(!silence.is_over(at(4_000), at(4_699)));
        assert!(silence.is_over(at(4_000), at(4_700)));
        assert_eq!(silence.part(), Some(3));
        let time = Instant::now();
        let look = |now| silence.next_check(at(4_000), Some(at(now)), time);
        assert_eq!(look(4_600), time.checked_add(Duration::from_millis(100)));
        assert_eq!(look(0), time.checked_add(LONGEST));
        assert_eq!(look(9_000), time.checked_add(SHORTEST));
        let look = silence.next_check(at(4_000), None, time);
        assert_eq!(look, time.checked_add(LONGEST), "the clock stands");
    }

    #[test]
    fn nothing_is_over_before_a_live_frame_came() {
        let silence = Silence::default();
        assert!(!silence.is_over(gst::ClockTime::ZERO, gst::ClockTime::MAX));
        assert_eq!(silence.next_check(at(0), Some(at(0)), Instant::now()), None);
    }
}
