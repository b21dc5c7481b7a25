//! Pixel budgets: the size to which a frame is resized, from its size and a budget.
//!
//! The reference packages have three rules, which give different sizes, so each has a function here
//! that is named after the reference's. All of them round as Python does, halves to even: 720 rows
//! are 22.5 blocks of 32, which become 22 (704 rows), not 23.
//!
//! Products are compared and divided as `f64`, which agrees with Python as long as
//! `frames * height * width` stays below 2^53. No rule gives more than [`MOST_PIXELS`].

use super::{Rounding, Size};

/// Largest ratio of the long side to the short one.
const MAX_RATIO: f64 = 200.0;

/// Most pixels of a frame that a rule gives: a million tokens of 32x32 pixels, four times the
/// context of the official models. [`crate::forecast`] bounds a whole window.
pub const MOST_PIXELS: u64 = 1 << 30;

/// Most vision tokens of one video frame (`VIDEO_MAX_TOKEN_NUM` of qwen-vl-utils,
/// `max_video_tokens` of transformers).
const VIDEO_MAX_TOKENS: u64 = 768;

/// Why a frame has no size within a budget.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum BudgetError {
    /// A side is zero.
    #[error("a frame of {}x{} pixels is empty", .0.width, .0.height)]
    Empty(Size),
    /// The picture is too long and thin.
    #[error(
        "the aspect ratio of {}x{} pixels is {ratio:.0}, the model takes at most 200",
        size.width,
        size.height
    )]
    AspectRatio {
        /// Size of the source.
        size: Size,
        /// Long side over short side (after scaling a tiny source up, where the rule does that).
        ratio: f64,
    },
    /// Fewer frames than a temporal patch.
    #[error("a video needs at least {least} frames, not {frames}")]
    TooFewFrames {
        /// Frames given.
        frames: u32,
        /// Frames of a temporal patch.
        least: u32,
    },
    /// A budget of zero pixels.
    #[error("a pixel budget cannot be zero")]
    ZeroBudget,
    /// The minimum is above the maximum.
    #[error("min-pixels {min} is above max-pixels {max}")]
    MinAboveMax {
        /// Fewest pixels.
        min: u64,
        /// Most pixels that the other settings leave.
        max: u64,
    },
    /// The rule yields more than [`MOST_PIXELS`].
    #[error(
        "a frame of {}x{} pixels would be enlarged, or kept, beyond the {MOST_PIXELS} pixels that \
         a frame can have: lower min-pixels, or set max-pixels",
        .0.width,
        .0.height
    )]
    TooLarge(Size),
}

/// A pixel budget and the rule that applies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// transformers, videos: the budget covers the frames of the whole video together.
    HfVideo {
        /// Fewest pixels of the whole video (`size.shortest_edge`).
        min_pixels: u64,
        /// Most pixels of the whole video (`size.longest_edge`).
        max_pixels: u64,
        /// `cap_pixels_per_frame`: off in transformers 5.17, the default from 5.22.
        cap_per_frame: bool,
    },
    /// qwen-vl-utils, videos: a budget for one frame, and one for the whole video.
    QwenVlUtils {
        /// Fewest pixels of one frame.
        min_pixels: u64,
        /// Most pixels of one frame.
        max_pixels: u64,
        /// Most pixels of the whole video.
        total_pixels: u64,
    },
    /// qwen-vl-utils' rule, or [`Budget::HfVideo`] where that gives fewer pixels: for maxima that
    /// never enlarge a frame.
    Smaller {
        /// Fewest pixels of one frame, in qwen-vl-utils' rule.
        min_pixels: u64,
        /// Most pixels of one frame.
        max_pixels: u64,
        /// Most pixels of the whole video.
        total_pixels: u64,
        /// Fewest and most pixels of the whole video, in transformers' rule.
        whole: (u64, u64),
        /// As in [`Budget::HfVideo`].
        cap_per_frame: bool,
    },
    /// transformers, images: the budget covers one image.
    HfImage {
        /// Fewest pixels (`size.shortest_edge`).
        min_pixels: u64,
        /// Most pixels (`size.longest_edge`).
        max_pixels: u64,
    },
}

impl Budget {
    /// qwen-vl-utils' own defaults for blocks of `factor` pixels.
    pub fn qwen_vl_utils(factor: u32) -> Self {
        Self::QwenVlUtils {
            min_pixels: pixels_of(128, factor),
            max_pixels: pixels_of(VIDEO_MAX_TOKENS, factor),
            // 90 % of a context of 128000 tokens.
            total_pixels: pixels_of(115_200, factor),
        }
    }

    /// Size that each of `frames` frames of size `source` is resized to, and the rounding of the
    /// resize, which is that of the package whose rule gives the size.
    ///
    /// # Errors
    ///
    /// See [`BudgetError`].
    pub fn resize(
        &self,
        frames: u32,
        source: Size,
        factor: u32,
        temporal_patch: u32,
    ) -> Result<(Size, Rounding), BudgetError> {
        let of = |budget: Self| budget.size(frames, source, factor, temporal_patch);
        Ok(match *self {
            Self::Smaller {
                min_pixels,
                max_pixels,
                total_pixels,
                whole,
                cap_per_frame,
            } => {
                let limited = of(Self::QwenVlUtils {
                    min_pixels,
                    max_pixels,
                    total_pixels,
                })?;
                let own = of(Self::HfVideo {
                    min_pixels: whole.0,
                    max_pixels: whole.1,
                    cap_per_frame,
                })?;
                match limited.pixels() < own.pixels() {
                    true => (limited, Rounding::Once),
                    false => (own, Rounding::EachPass),
                }
            }
            Self::QwenVlUtils { .. } => (of(*self)?, Rounding::Once),
            Self::HfVideo { .. } | Self::HfImage { .. } => (of(*self)?, Rounding::EachPass),
        })
    }

    /// Size that each of `frames` frames of size `source` is resized to.
    ///
    /// Both sides become multiples of `factor` pixels (patch size times spatial merge).
    /// `temporal_patch` is the number of frames of a temporal patch. Images ignore the frame
    /// counts.
    ///
    /// # Errors
    ///
    /// See [`BudgetError`].
    pub fn size(
        &self,
        frames: u32,
        source: Size,
        factor: u32,
        temporal_patch: u32,
    ) -> Result<Size, BudgetError> {
        match *self {
            Self::HfVideo {
                min_pixels,
                max_pixels,
                cap_per_frame,
            } => {
                check(min_pixels, max_pixels)?;
                let max = if cap_per_frame {
                    hf_capped_max_pixels(frames, factor, min_pixels, max_pixels)
                } else {
                    max_pixels
                };
                hf_video_smart_resize(frames, source, temporal_patch, factor, min_pixels, max)
            }
            Self::QwenVlUtils {
                min_pixels,
                max_pixels,
                total_pixels,
            } => {
                check(min_pixels, max_pixels)?;
                // An odd last frame is repeated before the budget is shared out.
                let even = frames.checked_next_multiple_of(temporal_patch.max(1));
                let limit = qwen_vl_utils_max_pixels(
                    even.unwrap_or(frames),
                    factor,
                    temporal_patch,
                    min_pixels,
                    max_pixels,
                    total_pixels,
                );
                qwen_vl_utils_smart_resize(source, factor, min_pixels, limit)
            }
            Self::Smaller { .. } => {
                let (size, _) = self.resize(frames, source, factor, temporal_patch)?;
                Ok(size)
            }
            Self::HfImage {
                min_pixels,
                max_pixels,
            } => {
                check(min_pixels, max_pixels)?;
                hf_image_smart_resize(source, factor, min_pixels, max_pixels)
            }
        }
    }
}

fn check(min: u64, max: u64) -> Result<(), BudgetError> {
    if min == 0 || max == 0 {
        Err(BudgetError::ZeroBudget)
    } else if min > max {
        Err(BudgetError::MinAboveMax { min, max })
    } else {
        Ok(())
    }
}

/// `smart_resize` of transformers' `video_processing_qwen3_vl.py`.
///
/// The budget covers `frames * height * width`. Sides under `factor` are scaled up first.
///
/// # Errors
///
/// Too few frames, an empty or too thin picture, no usable size.
pub fn hf_video_smart_resize(
    frames: u32,
    source: Size,
    temporal_factor: u32,
    factor: u32,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<Size, BudgetError> {
    if frames < temporal_factor {
        return Err(BudgetError::TooFewFrames {
            frames,
            least: temporal_factor,
        });
    }
    let mut s = Sides::of(source)?;
    let (f, temporal_factor) = (f64::from(factor.max(1)), temporal_factor.max(1));
    if s.height < f || s.width < f {
        let scale = (f / s.height).max(f / s.width);
        s.height = (s.height * scale).trunc();
        s.width = (s.width * scale).trunc();
    }
    s.check_ratio(source)?;
    let blocks = s.round(f);
    let t = (f64::from(frames) / f64::from(temporal_factor)).round_ties_even()
        * f64::from(temporal_factor);
    let volume = f64::from(frames) * s.height * s.width;
    let rounded = t * blocks.height * blocks.width;
    let result = if rounded > max_pixels as f64 {
        s.shrink((volume / max_pixels as f64).sqrt(), f).at_least(f)
    } else if rounded < min_pixels as f64 {
        s.grow((min_pixels as f64 / volume).sqrt(), f)
    } else {
        blocks
    };
    result.size().ok_or(BudgetError::TooLarge(source))
}

/// The cap of `Qwen3VLVideoProcessor.resize` with `cap_pixels_per_frame`: most pixels of the whole
/// video when no frame may have more than 768 tokens or its even share.
pub fn hf_capped_max_pixels(frames: u32, factor: u32, min_pixels: u64, max_pixels: u64) -> u64 {
    let frame_cap = pixels_of(VIDEO_MAX_TOKENS, factor);
    let share = max_pixels / u64::from(frames.max(1));
    let per_frame = frame_cap.min(share).max(margin(min_pixels));
    per_frame.saturating_mul(u64::from(frames))
}

/// `smart_resize` of transformers' `image_processing_qwen2_vl.py`, which Qwen3-VL uses too.
///
/// # Errors
///
/// An empty or too thin picture, no usable size.
pub fn hf_image_smart_resize(
    source: Size,
    factor: u32,
    min_pixels: u64,
    max_pixels: u64,
) -> Result<Size, BudgetError> {
    let s = Sides::of(source)?;
    s.check_ratio(source)?;
    let f = f64::from(factor.max(1));
    let blocks = s.round(f);
    let result = if blocks.area() > max_pixels as f64 {
        s.shrink((s.area() / max_pixels as f64).sqrt(), f)
            .at_least(f)
    } else if blocks.area() < min_pixels as f64 {
        s.grow((min_pixels as f64 / s.area()).sqrt(), f)
    } else {
        blocks
    };
    result.size().ok_or(BudgetError::TooLarge(source))
}

/// `smart_resize` of qwen-vl-utils' `vision_process.py`: one frame, no term for time.
///
/// If shrinking leaves a side no block, that function gives 0, which is no size; here it is one
/// block, as in transformers' rules.
///
/// # Errors
///
/// An empty or too thin picture, `min_pixels` above `max_pixels`, no usable size.
pub fn qwen_vl_utils_smart_resize(
    source: Size,
    factor: u32,
    min_pixels: u64,
    max_pixels: f64,
) -> Result<Size, BudgetError> {
    if max_pixels < min_pixels as f64 {
        return Err(BudgetError::MinAboveMax {
            min: min_pixels,
            max: max_pixels as u64,
        });
    }
    let s = Sides::of(source)?;
    s.check_ratio(source)?;
    let f = f64::from(factor.max(1));
    let blocks = s.round(f).at_least(f);
    let result = if blocks.area() > max_pixels {
        s.shrink((s.area() / max_pixels).sqrt(), f).at_least(f)
    } else if blocks.area() < min_pixels as f64 {
        s.grow((min_pixels as f64 / s.area()).sqrt(), f)
    } else {
        blocks
    };
    result.size().ok_or(BudgetError::TooLarge(source))
}

/// The budget rule of qwen-vl-utils' `fetch_video`: most pixels of one of `frames` frames (an even
/// number there), from the settings for a frame and for the whole video. May be fractional.
pub fn qwen_vl_utils_max_pixels(
    frames: u32,
    factor: u32,
    frame_factor: u32,
    min_pixels: u64,
    max_pixels: u64,
    total_pixels: u64,
) -> f64 {
    let frame_cap = pixels_of(VIDEO_MAX_TOKENS, factor);
    let share = total_pixels as f64 / f64::from(frames.max(1)) * f64::from(frame_factor);
    (frame_cap as f64)
        .min(share)
        .max(margin(min_pixels) as f64)
        .min(max_pixels as f64)
}

/// Pixels of `tokens` vision tokens. A configuration may have any factor, so the product saturates:
/// a budget larger than every picture is as good as a larger one.
fn pixels_of(tokens: u64, factor: u32) -> u64 {
    (u64::from(factor) * u64::from(factor)).saturating_mul(tokens)
}

/// `int(1.05 * min_pixels)`: both packages keep the maximum this far above the minimum.
fn margin(min_pixels: u64) -> u64 {
    (min_pixels as f64 * 1.05) as u64
}

/// Height and width in a rule; whole numbers where Python's are.
#[derive(Clone, Copy)]
struct Sides {
    height: f64,
    width: f64,
}

impl Sides {
    fn of(size: Size) -> Result<Self, BudgetError> {
        if size.width == 0 || size.height == 0 {
            return Err(BudgetError::Empty(size));
        }
        Ok(Self {
            height: f64::from(size.height),
            width: f64::from(size.width),
        })
    }

    fn area(self) -> f64 {
        self.height * self.width
    }

    fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self {
            height: f(self.height),
            width: f(self.width),
        }
    }

    fn check_ratio(self, source: Size) -> Result<(), BudgetError> {
        let ratio = self.height.max(self.width) / self.height.min(self.width);
        match ratio > MAX_RATIO {
            true => Err(BudgetError::AspectRatio {
                size: source,
                ratio,
            }),
            false => Ok(()),
        }
    }

    fn round(self, factor: f64) -> Self {
        self.map(|v| (v / factor).round_ties_even() * factor)
    }

    fn shrink(self, beta: f64, factor: f64) -> Self {
        self.map(|v| (v / beta / factor).floor() * factor)
    }

    fn grow(self, beta: f64, factor: f64) -> Self {
        self.map(|v| (v * beta / factor).ceil() * factor)
    }

    fn at_least(self, factor: f64) -> Self {
        self.map(|v| v.max(factor))
    }

    fn size(self) -> Option<Size> {
        let side = |v: f64| (1.0..=f64::from(u32::MAX)).contains(&v).then_some(v as u32);
        let size = Size {
            width: side(self.width)?,
            height: side(self.height)?,
        };
        (size.pixels() <= MOST_PIXELS).then_some(size)
    }
}
