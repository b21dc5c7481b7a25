//! Which frames are kept: one for every cell of a grid in time.

use super::rules::{Nanos, WindowRules};

/// Keeps one frame for every sampling interval, counted from the first frame.
///
/// The grid does not follow the frames that were kept, so a stream whose rate is no multiple of
/// the sampling rate is still sampled at that rate on average. A frame serves if it is due, or if
/// the one after it would lie farther from the time at which one is due: otherwise a stream about
/// as slow as the sampling rate would lose frames to a jitter of a millisecond.
#[derive(Clone, Debug)]
pub struct FrameSampler {
    rules: WindowRules,
    grid: Option<Grid>,
}

/// A frame that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The time that it stands for: its own, or that at which it was due, if it came just before.
    pub time: Nanos,
    /// No frame that is kept later stands for a time before this one, unless the stream jumps back.
    pub next: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Grid {
    anchor: Nanos,
    due: Nanos,
    /// Time that the last kept frame stands for.
    last: Nanos,
    /// Latest time of the frames before, kept or not.
    before: Nanos,
}

impl Grid {
    /// Whether a frame at `time` will do, although none is due: frames as far apart as the last two
    /// are, the next one would come later after the due time than this one comes before it.
    fn is_nearest(&self, time: Nanos) -> bool {
        self.due - time.min(self.due) < time.saturating_sub(self.before) / 2
    }
}

impl FrameSampler {
    /// A sampler that has seen no frame.
    pub fn new(rules: WindowRules) -> Self {
        Self { rules, grid: None }
    }

    /// Samples by other rules from the next sample that is due.
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

    /// Looks at the next frame's time; `None` if the frame is not kept.
    ///
    /// Frames without a time are never kept. Time that runs backwards by more than a window starts
    /// anew there; by less, it passes until it has caught up.
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
