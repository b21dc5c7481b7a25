//! The types that a user of Qwen3-VL and an engine share. No tensors, no pipeline, no runtime, so
//! that an engine in this process, one behind a network and their callers can all use them.
//!
//! The modules follow a frame on its way to text:
//!
//! 1. [`frames`]: how many pixels a frame may have, resizing.
//! 2. [`window`]: sampling of frames and windows of frames (no clock: time is an argument).
//! 3. [`prompt`]: the token layout around the frames and the positions of every token.
//! 4. [`request`]: the request and its sampling parameters.
//! 5. [`forecast`]: the tokens and memory that a window will need of a [`model`], before it is
//!    allocated.
//! 6. [`backend`]: the interface of an engine: windows in, [events](event) out, or a [`failure`].
//! 7. [`reasoning`]: the thought of a thinking model, apart from its answer.
//! 8. [`load`]: progress and errors of a load; [`registry`]: one engine for all loads of the same
//!    model.

pub mod backend;
#[cfg(any(test, feature = "fake"))]
pub mod clip;
pub mod event;
pub mod failure;
pub mod forecast;
pub mod frames;
mod kv_memory;
pub mod load;
pub mod model;
mod priority;
pub mod prompt;
pub mod reasoning;
pub mod registry;
pub mod request;
mod sink;
pub mod window;

pub use kv_memory::{KvMemory, NoKvMemory};
pub use priority::lower_priority;
pub use sink::EventSink;
