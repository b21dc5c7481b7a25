//! Windows of frames: frame sampling, the windows of a frame, their start and end. No tensors, no
//! clock: time is a parameter.
//!
//! ```text
//! time of every frame ─► FrameSampler ── kept ─► Windows ─► Opened · Frame · Closed · Discarded
//!                                                         └─► Pairs: a temporal patch
//! ```
//!
//! Times are nanoseconds of running time, which goes on over seeks and gaps.
//!
//! Windows of a second at two frames a second, from a stream of ten a second:
//!
//! ```
//! use qwen3_vl_core::window::{Event, FrameSampler, WindowRules, WindowSettings, Windows};
//!
//! const MS: u64 = 1_000_000;
//! let rules = WindowRules::new(&WindowSettings {
//!     duration: 1000 * MS,
//!     stride: 0,
//!     fps: (2, 1),
//!     min_frames: 2,
//!     max_frames: 768,
//!     least_frames: 2,
//! })?;
//! let (mut sampler, mut windows) = (FrameSampler::new(rules), Windows::new(rules, 0));
//! let mut events = Vec::new();
//! for time in (0..=1000).step_by(100) {
//!     if let Some(kept) = sampler.push(Some(time * MS)) {
//!         events.extend(windows.push(kept.time, kept.next));
//!     }
//! }
//! assert_eq!(events, [
//!     Event::Opened { window: 0, end: 1000 * MS },
//!     Event::Frame { window: 0 }, // at 0
//!     Event::Frame { window: 0 }, // at 0.5 s; the next due time is 1 s
//!     Event::Closed { window: 0, partial: false },
//!     Event::Opened { window: 1, end: 2000 * MS },
//!     Event::Frame { window: 1 },
//! ]);
//! # Ok::<(), qwen3_vl_core::window::RulesError>(())
//! ```

mod pairs;
mod rules;
mod sampler;
mod windows;

pub use pairs::Pairs;
pub use rules::{Nanos, RulesError, WindowRules, WindowSettings};
pub use sampler::{FrameSampler, Kept};
pub use windows::{Discard, Event, Windows};
