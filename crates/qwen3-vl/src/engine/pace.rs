//! Bounds the tokens that a pass prefills while other windows decode, by the time of earlier
//! passes. Pure: times are arguments.

use std::time::Duration;

/// Smallest bound: a prompt must be prefilled however slow the device is.
const LEAST: usize = 64;
/// Bound until a pass has been timed.
const FIRST: usize = 512;

/// The bound on prefilled tokens, which follows the time of passes.
///
/// A pass of n tokens takes a + b n. A pass over the target time lowers the bound in proportion, a
/// faster one raises it, at most to the double. So the bound converges to where a pass takes the
/// target time, or to [`LEAST`] where none can.
#[derive(Clone, Debug)]
pub struct PrefillPace {
    /// Target time of a pass. None: only `most` bounds it.
    target: Option<Duration>,
    most: usize,
    bound: usize,
    /// Tokens prefilled since the host last waited for the device, and the time of those passes.
    tokens: usize,
    time: Duration,
}

impl PrefillPace {
    /// A pace for passes of at most `most` tokens that may take `target`.
    pub fn new(target: Option<Duration>, most: usize) -> Self {
        let first = target.map_or(most, |_| FIRST.min(most));
        Self {
            target,
            most,
            bound: first,
            tokens: 0,
            time: Duration::ZERO,
        }
    }

    /// Tokens that the next pass may prefill while others decode.
    pub fn bound(&self) -> usize {
        self.bound
    }

    /// Records a pass. `sampled`: the host waited for its result. A GPU may still be working on a
    /// pass without one, so its time is counted with the next.
    pub fn passed(&mut self, prefilled: usize, sampled: bool, time: Duration) {
        self.tokens += prefilled;
        self.time += time;
        if !sampled {
            return;
        }
        let (tokens, time) = (self.tokens, self.time);
        (self.tokens, self.time) = (0, Duration::ZERO);
        let Some(target) = self.target else {
            return;
        };
        if tokens == 0 {
            return;
        }
        let share = target.as_secs_f64() / time.as_secs_f64().max(1e-6);
        let fitting = (tokens as f64 * share) as usize;
        let bound = match time > target {
            true => self.bound.min(fitting),
            // A short pass says nothing about a long one: it only raises the bound.
            false => self.bound.max(fitting.min(2 * self.bound)),
        };
        self.bound = bound.max(LEAST).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(milliseconds: u64, most: usize) -> PrefillPace {
        PrefillPace::new(Some(Duration::from_millis(milliseconds)), most)
    }

    #[test]
    fn without_a_target_passes_are_as_large_as_they_may_be() {
        let mut pace = PrefillPace::new(None, 512);
        pace.passed(512, true, Duration::from_secs(100));
        assert_eq!(pace.bound(), 512);
    }

    #[test]
    fn passes_without_a_wait_are_timed_with_the_next() {
        let mut pace = pace(50, 2048);
        pace.passed(512, false, Duration::from_millis(1));
        assert_eq!(pace.bound(), 512);
        pace.passed(0, true, Duration::from_millis(99));
        assert_eq!(pace.bound(), 256);
    }

    proptest! {
        /// The bound stays within its limits, whatever the times are.
        #[test]
        fn the_bound_is_within_its_limits(
            most in 1usize..5000,
            passes in prop::collection::vec((0usize..5000, any::<bool>(), 0u64..1_000_000), 0..50),
        ) {
            let mut pace = pace(50, most);
            for (tokens, sampled, micros) in passes {
                pace.passed(tokens, sampled, Duration::from_micros(micros));
                prop_assert!((LEAST.min(most)..=most).contains(&pace.bound()));
            }
        }

        /// On a device that takes a + b n, the bound converges to where a pass takes the target
        /// time, also with short prompts in between.
        #[test]
        fn passes_come_to_take_the_target(
            start in 0.0f64..60.0,
            each in 0.001f64..1.0,
            short in 1usize..64,
        ) {
            let took = |tokens: usize| {
                Duration::from_secs_f64((start + each * tokens as f64) / 1e3)
            };
            let (target, mut pace) = (Duration::from_millis(50), pace(50, 2048));
            for _ in 0..200 {
                let bound = pace.bound();
                pace.passed(bound, true, took(bound));
                if took(short) <= target {
                    pace.passed(short, true, took(short));
                }
            }
            let bound = pace.bound();
            // The tolerance is the smallest step that changes the bound.
            let most = target.mul_f64(1.01) + took(1);
            prop_assert!(took(bound) <= most || bound == LEAST, "{bound} too many");
            let more = took(bound + bound / 16 + 2);
            prop_assert!(more > target || bound == 2048, "{bound} too few");
        }
    }
}
