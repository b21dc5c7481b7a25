//! The checked rules of sampler and windows.

/// Nanoseconds.
pub type Nanos = u64;

const SECOND: u128 = 1_000_000_000;

/// A user's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSettings {
    /// Length of a window.
    pub duration: Nanos,
    /// Distance between the starts of windows; 0 means `duration`.
    pub stride: Nanos,
    /// Frames a second as a fraction.
    pub fps: (u32, u32),
    /// Fewest frames of a window: `fps` is raised to reach them.
    pub min_frames: u32,
    /// Most frames of a window: `fps` is lowered to respect them.
    pub max_frames: u32,
    /// Fewest frames that can be described: 2 for a video (a temporal patch), 1 for images.
    pub least_frames: u32,
}

/// Why settings cannot be used together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// A rate of zero.
    #[error("fps is {0}/{1}: it must be above zero, for instance 2/1")]
    Fps(u32, u32),
    /// A duration that holds too few frames.
    #[error("window-duration is {0} ns: it must hold at least two frames, for instance 4 seconds")]
    Duration(Nanos),
    /// `min_frames` is above `max_frames`, or that is zero.
    #[error("min-frames {min} is above max-frames {max}")]
    Frames {
        /// Fewest frames.
        min: u32,
        /// Most frames.
        max: u32,
    },
    /// More frames than a window has nanoseconds.
    #[error(
        "max-frames is {max}, and window-duration {duration} ns: frames would be less than a \
         nanosecond apart; lower max-frames, 768 for instance"
    )]
    TooMany {
        /// Most frames.
        max: u32,
        /// Length of a window.
        duration: Nanos,
    },
    /// A window holds too few frames to be described.
    #[error("a window would hold {planned} frames, but needs at least {least}: raise {remedy}")]
    TooFew {
        /// Frames that a window would hold.
        planned: u32,
        /// Frames that it needs.
        least: u32,
        /// The settings to raise.
        remedy: &'static str,
    },
    /// Windows that start between two samples would hold the same frames.
    #[error(
        "window-stride is {stride} ns, below the {interval} ns between two sampled frames: \
         raise it, or fps"
    )]
    Stride {
        /// Distance of window starts.
        stride: Nanos,
        /// Distance of sampled frames.
        interval: Nanos,
    },
}

/// Checked rules: the distance of samples, and the length and distance of windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowRules {
    duration: Nanos,
    stride: Nanos,
    interval: Interval,
    least_frames: u32,
}

impl WindowRules {
    /// Checks settings and computes the sampling interval.
    ///
    /// # Errors
    ///
    /// See [`RulesError`].
    pub fn new(settings: &WindowSettings) -> Result<Self, RulesError> {
        let WindowSettings {
            duration,
            fps: (num, den),
            min_frames: min,
            max_frames: max,
            least_frames,
            ..
        } = *settings;
        if num == 0 || den == 0 {
            return Err(RulesError::Fps(num, den));
        }
        if min > max || max == 0 {
            return Err(RulesError::Frames { min, max });
        }
        if duration < Nanos::from(least_frames) {
            return Err(RulesError::Duration(duration));
        }
        if duration < Nanos::from(max) {
            return Err(RulesError::TooMany { max, duration });
        }
        let wanted = Interval {
            num: u128::from(den) * SECOND,
            den: u128::from(num),
        };
        let interval = match wanted.starts_within(duration) {
            n if n < u64::from(min) => Interval::divide(duration, min),
            n if n > u64::from(max) => Interval::divide(duration, max),
            _ => wanted,
        };
        let stride = match settings.stride {
            0 => duration,
            stride => stride,
        };
        let rules = Self {
            duration,
            stride,
            interval,
            least_frames,
        };
        if rules.planned_frames() < least_frames {
            return Err(RulesError::TooFew {
                planned: rules.planned_frames(),
                least: least_frames,
                remedy: match max < least_frames {
                    true => "max-frames",
                    false => "fps, min-frames or window-duration",
                },
            });
        }
        if stride < interval.start_of(1) {
            return Err(RulesError::Stride {
                stride,
                interval: interval.start_of(1),
            });
        }
        Ok(rules)
    }

    /// Length of a window.
    pub fn duration(&self) -> Nanos {
        self.duration
    }

    /// Distance between the starts of windows.
    pub fn stride(&self) -> Nanos {
        self.stride
    }

    /// Frames of a window if the stream has a frame at every due time.
    pub fn planned_frames(&self) -> u32 {
        u32::try_from(self.interval.starts_within(self.duration)).unwrap_or(u32::MAX)
    }

    /// Fewest frames that can be described.
    pub fn least_frames(&self) -> u32 {
        self.least_frames
    }

    /// Distance of two samples.
    pub(super) fn interval(&self) -> Interval {
        self.interval
    }
}

/// The distance of two samples in nanoseconds, as a fraction. Time is divided into cells of this
/// length; a cell begins at its exact start rounded down, as timestamps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    num: u128,
    den: u128,
}

impl Interval {
    fn divide(duration: Nanos, parts: u32) -> Self {
        Self {
            num: u128::from(duration),
            den: u128::from(parts),
        }
    }

    /// First nanosecond of cell `cell`.
    pub(super) fn start_of(self, cell: u64) -> Nanos {
        u128::from(cell)
            .checked_mul(self.num)
            .map_or(Nanos::MAX, |v| saturate(v / self.den))
    }

    /// The cell of `time`: the last one that starts at or before it.
    pub(super) fn cell_of(self, time: Nanos) -> u64 {
        saturate(((u128::from(time) + 1) * self.den - 1) / self.num)
    }

    /// Cells that start in the first `duration` nanoseconds.
    fn starts_within(self, duration: Nanos) -> u64 {
        duration
            .checked_sub(1)
            .map_or(0, |last| self.cell_of(last).saturating_add(1))
    }
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
