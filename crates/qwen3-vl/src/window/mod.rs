//! Windows of frames: which frames are sampled, which window they belong to, when it closes.
//! No tensors, no clock: time is a parameter.
//!
//! ```text
//! time of every frame ─► Sampler ── kept ─► Windows ─► Opened · Frame · Closed · Discarded
//!                                                         └─► Pairs: two frames, one temporal patch
//! ```
//!
//! Times are nanoseconds of running time: they grow at the speed of the stream, over seeks and
//! gaps.

mod pairs;
mod rules;
mod sampler;
mod windows;

pub use pairs::Pairs;
pub use rules::{Nanos, RulesError, WindowRules, WindowSettings};
pub use sampler::{Kept, Sampler};
pub use windows::{Discard, Event, Windows};
