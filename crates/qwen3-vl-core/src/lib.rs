//! What a user of Qwen3-VL and an engine that runs it have in common. No tensors, no pipeline, no runtime:
//! an engine in this process, one behind a network and a program that asks either all stand on this.
//!
//! The modules follow a frame on its way to text:
//!
//! 1. [`frames`]: how many pixels a frame may have, resizing.
//! 2. [`window`]: which frames are sampled and which frames make a window (no clock: time is an argument).
//! 3. [`prompt`]: the token layout around the frames and the positions of every token.
//! 4. [`request`]: what is asked, and how tokens are chosen.
//! 5. [`forecast`]: what a window will need of a [`model`], before anything is allocated for it.
//! 6. [`backend`]: the seam: windows in, [events](event) out, or a [`failure`].
//! 7. [`load`]: how far a model is loaded and why it cannot be; [`registry`]: one engine for all who load
//!    the same model.

pub mod backend;
#[cfg(any(test, feature = "fake"))]
pub mod clip;
pub mod event;
pub mod failure;
pub mod forecast;
pub mod frames;
pub mod load;
pub mod model;
mod priority;
pub mod prompt;
pub mod registry;
pub mod request;
mod sink;
pub mod window;

pub use priority::lower_priority;
pub use sink::EventSink;
