//! Frame sampling: one frame for every cell of a grid in time.

use super::rules::{Nanos, WindowRules};

/// Keeps one frame for every sampling interval, counted from the first frame.
///
/// The grid does not move with the kept frames, so a stream whose rate is no multiple of the
/// sampling rate is still sampled at that rate on average. A frame is kept if it is due, or if the
/// next one would lie farther from the due time: otherwise a stream about as slow as the sampling
/// rate would lose frames to a jitter of a millisecond.
#[derive(Clone, Debug)]
pub struct FrameSampler {
    rules: WindowRules,
    grid: Option<Grid>,
}

/// A frame that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its own time, or the due time if it came just before that.
    pub time: Nanos,
    /// No later frame is kept for a time before this one, unless the stream jumps back.
    pub next: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Grid {
    anchor: Nanos,
    due: Nanos,
    /// [`Kept::time`] of the last kept frame.
    last: Nanos,
    /// Latest time of the frames before, kept or not.
    before: Nanos,
}

impl Grid {
    /// Whether a frame at `time`, before the due time, is nearer to it than the next frame would
    /// be, if that came at the distance of the last two.
    fn is_nearest(&self, time: Nanos) -> bool {
        self.due - time.min(self.due) < time.saturating_sub(self.before) / 2
    }
}

impl FrameSampler {
    /// A sampler that has seen no frame.
    pub fn new(rules: WindowRules) -> Self {
        Self { rules, grid: None }
    }

    /// Samples by other rules from the next due time on.
    pub fn set_rules(&mut self, rules: WindowRules) {
        self.rules = rules;
        if let Some(grid) = &mut self.grid {
            grid.anchor = grid.due;
        }
    }

    /// Forgets the stream: the next frame is the first.
    pub fn reset(&mut self) {
        self.grid = None;
    }

    /// Samples the next frame by its time; `None` if the frame is not kept.
    ///
    /// Frames without a time are never kept. If time jumps back by more than a window, sampling
    /// starts again there; by less, frames are left out until time has caught up.
    pub fn push(&mut self, time: Option<Nanos>) -> Option<Kept> {
        let before = time?;
        let interval = self.rules.interval();
        let (anchor, time) = match &mut self.grid {
            Some(grid) if before >= grid.due || grid.is_nearest(before) => {
                (grid.anchor, before.max(grid.due))
            }
            Some(grid) if before.saturating_add(self.rules.duration()) >= grid.last => {
                grid.before = grid.before.max(before);
                return None;
            }
            _ => (before, before),
        };
        let cell = interval.cell_of(time - anchor).saturating_add(1);
        let next = anchor.saturating_add(interval.start_of(cell));
        self.grid = Some(Grid {
            anchor,
            due: next,
            last: time,
            before,
        });
        Some(Kept { time, next })
    }
}
