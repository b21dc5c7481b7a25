//! Which frames are kept: the first one of every cell of a grid in time.

use super::rules::{Nanos, WindowRules};

/// Keeps the first frame of every sampling interval, counted from the first frame.
///
/// The grid does not follow the frames that were kept, so a stream whose rate is no multiple of
/// the sampling rate is still sampled at that rate on average.
#[derive(Clone, Debug)]
pub struct Sampler {
    rules: WindowRules,
    grid: Option<Grid>,
}

#[derive(Clone, Copy, Debug)]
struct Grid {
    anchor: Nanos,
    due: Nanos,
    last: Nanos,
}

impl Sampler {
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

    /// Looks at the next frame's time. If it is kept, says when the next one is due: no frame
    /// before that time is kept, unless the stream jumps back.
    ///
    /// Frames without a time are never kept. Time that runs backwards by more than a window starts
    /// anew there; by less, it passes until it has caught up.
    pub fn push(&mut self, time: Option<Nanos>) -> Option<Nanos> {
        let time = time?;
        let interval = self.rules.interval();
        let anchor = match self.grid {
            Some(grid) if time >= grid.due => grid.anchor,
            Some(grid) if time.saturating_add(self.rules.duration()) >= grid.last => return None,
            _ => time,
        };
        let next = interval.cell_of(time - anchor).saturating_add(1);
        let due = anchor.saturating_add(interval.start_of(next));
        self.grid = Some(Grid {
            anchor,
            due,
            last: time,
        });
        Some(due)
    }
}
