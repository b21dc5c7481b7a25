//! Progress of a download, as text.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::amounts::amounts;
use qwen3_vl_core::load::Progress;

/// Shortest time between two reports.
const INTERVAL: Duration = Duration::from_millis(500);

/// Time before the time left is estimated.
const WARM_UP: Duration = Duration::from_secs(2);

/// State that the download thread updates and the waiting thread reads.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<Now>);

/// The state of the download at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Now {
    /// The current activity.
    what: String,
    /// Bytes of all files; 0 while unknown.
    total: u64,
    /// Bytes of all files on disk.
    done: u64,
    /// Bytes that were on disk before.
    before: u64,
}

impl Shared {
    pub(super) fn now(&self) -> Now {
        self.lock().clone()
    }

    pub(super) fn says(&self, what: &str) {
        self.lock().what = what.into();
    }

    /// Sets the size of all files.
    pub(super) fn total(&self, total: u64) {
        self.lock().total = total;
    }

    /// Counts bytes that were on disk already.
    pub(super) fn found(&self, bytes: u64) {
        let mut now = self.lock();
        now.done += bytes;
        now.before += bytes;
    }

    /// Counts received bytes.
    pub(super) fn came(&self, bytes: u64) {
        self.lock().done += bytes;
    }

    /// Subtracts bytes that must be downloaded again.
    pub(super) fn lost(&self, bytes: u64) {
        let mut now = self.lock();
        now.done = now.done.saturating_sub(bytes);
        now.before = now.before.saturating_sub(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // Every statement leaves the state valid, so a poisoned lock is safe to use.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes progress reports, about two a second; the percentage never decreases.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    shown: Option<(Instant, Now)>,
    /// When the first bytes arrived.
    began: Option<Instant>,
    percent: u32,
}

impl Reporter {
    /// The report that is due at this time, if any.
    pub(super) fn report(&mut self, at: Instant, now: Now) -> Option<Progress> {
        if now.what.is_empty() {
            return None;
        }
        if let Some((when, shown)) = &self.shown
            && (*shown == now || at.duration_since(*when) < INTERVAL)
        {
            return None;
        }
        Some(self.show(at, now))
    }

    /// The final report, even if the previous one was less than the interval before.
    pub(super) fn last(&mut self, at: Instant, now: Now) -> Option<Progress> {
        let is_shown = self.shown.as_ref().is_some_and(|(_, shown)| *shown == now);
        (now.total > 0 && !is_shown).then(|| self.show(at, now))
    }

    fn show(&mut self, at: Instant, now: Now) -> Progress {
        let came = now.done.saturating_sub(now.before);
        if came > 0 {
            self.began.get_or_insert(at);
        }
        let done = now.done.min(now.total);
        let percent = (u128::from(done) * 100).checked_div(u128::from(now.total));
        self.percent = self.percent.max(percent.unwrap_or(0) as u32);
        let mut what = now.what.clone();
        if now.total > 0 {
            what = format!("{what}: {}", amounts(done, now.total));
            if let Some(left) = self.left(at, came, now.total - done) {
                what = format!("{what}, {left} left");
            }
        }
        self.shown = Some((at, now));
        Progress {
            what,
            percent: self.percent,
        }
    }

    fn left(&self, at: Instant, came: u64, bytes: u64) -> Option<String> {
        let elapsed = at.duration_since(self.began?);
        if elapsed < WARM_UP || came == 0 || bytes == 0 {
            return None;
        }
        Some(time(elapsed.as_secs_f64() * bytes as f64 / came as f64))
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{} s", s.ceil()),
        s if s < 5400.0 => format!("{} min", (s / 60.0).ceil()),
        s => format!("{} h", (s / 3600.0).ceil()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(done: u64, before: u64) -> Now {
        Now {
            what: "downloading model.safetensors".into(),
            total: 4_300_000_000,
            done,
            before,
        }
    }

    #[test]
    fn it_says_bytes_and_the_time_left() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut reporter = Reporter::default();
        let asking = Now {
            what: "asking".into(),
            ..Now::default()
        };
        let first = reporter.report(at(0), asking);
        let first = first.map(|step| (step.what, step.percent));
        assert_eq!(first, Some(("asking".into(), 0)));
        // The interval has not passed.
        assert_eq!(reporter.report(at(400), now(100_000_000, 0)), None);
        let step = |reporter: &mut Reporter, ms, done| {
            let step = reporter.report(at(ms), now(done, 0));
            step.map(|step| (step.what, step.percent))
                .unwrap_or_default()
        };
        let what = "downloading model.safetensors";
        assert_eq!(
            step(&mut reporter, 500, 1_204_000_000),
            (format!("{what}: 1.2 of 4.3 GB"), 28)
        );
        // 1.3 GB in 10 s.
        assert_eq!(
            step(&mut reporter, 10_500, 1_300_000_000),
            (format!("{what}: 1.3 of 4.3 GB, 24 s left"), 30)
        );
        // Some bytes must be downloaded again.
        assert_eq!(step(&mut reporter, 11_500, 900_000_000).1, 30);
        // Without a change there is no report, however late.
        assert_eq!(reporter.report(at(60_000), now(900_000_000, 0)), None);
        let last = reporter.last(at(60_001), now(4_300_000_000, 0));
        assert_eq!(last.map(|step| step.percent), Some(100));
        assert_eq!(reporter.last(at(60_002), now(4_300_000_000, 0)), None);
    }

    #[test]
    fn bytes_that_were_here_say_nothing_about_the_speed() {
        let start = Instant::now();
        let mut reporter = Reporter::default();
        let before = 2_150_000_000;
        reporter.report(start, now(before, before));
        reporter.report(start + Duration::from_secs(1), now(before + 1, before));
        let later = start + Duration::from_secs(11);
        let step = reporter.report(later, now(before + 100_000_000, before));
        let text = step.map(|step| step.what).unwrap_or_default();
        assert!(text.ends_with("2.2 of 4.3 GB, 4 min left"), "{text}");
    }

    #[test]
    fn the_time_left_is_rounded_up() {
        assert_eq!(time(0.2), "1 s");
        assert_eq!(time(61.0), "2 min");
        assert_eq!(time(6000.0), "2 h");
    }
}
