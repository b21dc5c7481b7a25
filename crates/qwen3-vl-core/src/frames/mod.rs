//! Frames: sizes, budgets, resizing and patches. No tensors, no clock, no I/O.
//!
//! The size that transformers gives each of eight frames of 1080p, and the same with the cap of 768
//! tokens a frame that is its default from 5.22:
//!
//! ```
//! use qwen3_vl_core::frames::{Budget, Size};
//!
//! let source = Size { width: 1920, height: 1080 };
//! let size = |cap_per_frame| {
//!     let budget = Budget::HfVideo { min_pixels: 4096, max_pixels: 25_165_824, cap_per_frame };
//!     budget.size(8, source, 32, 2)
//! };
//! assert_eq!(size(false)?, Size { width: 1920, height: 1088 });
//! assert_eq!(size(true)?, Size { width: 1152, height: 640 });
//! # Ok::<(), qwen3_vl_core::frames::BudgetError>(())
//! ```

pub mod budget;
pub mod resize;
mod resize_once;
pub mod sampling;
pub mod timestamp;

use std::sync::Arc;

pub use budget::{Budget, BudgetError};
pub use resize::{ResizeError, Rounding, resize, resize_rgb, resize_rgb_once};
pub use timestamp::{patch_seconds, timestamp_text};

/// Width and height of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// Pixels in all.
    pub fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// A decoded picture at the model's input size, with its time.
#[derive(Clone, Debug)]
pub struct Frame {
    /// RGB, 8 bits a channel, row by row without padding: `height * width * 3` bytes.
    pub rgb: Arc<[u8]>,
    /// Size of `rgb`.
    pub size: Size,
    /// Time since the start of the frame's window, in seconds.
    pub seconds: f64,
}

/// The input of one vision grid.
#[derive(Clone, Debug)]
pub enum VisionInput {
    /// A temporal patch of a video: two frames of one size, in order of time. An odd last frame
    /// stands twice.
    Pair([Frame; 2]),
    /// One still image, without time.
    Image(Frame),
}

impl VisionInput {
    /// Size of the frames in pixels.
    pub fn size(&self) -> Size {
        match self {
            Self::Pair([first, _]) => first.size,
            Self::Image(frame) => frame.size,
        }
    }
}
