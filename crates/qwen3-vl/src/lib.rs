//! Qwen3-VL for video: what Hugging Face transformers computes, in Rust, on candle.
//!
//! The modules follow a frame on its way to text:
//!
//! 1. [`frames`]: how many pixels a frame may have, resizing, patches (pure, no tensors).
//! 2. [`window`]: which frames are kept and which frames make a window (pure, no clock).
//! 3. [`prompt`]: the token layout around the frames and the positions of every token (pure).
//! 4. [`model`]: vision tower, text model, KV cache; [`cpu`] has its kernels for the CPU, `kernels/` those
//!    for NVIDIA GPUs.
//! 5. [`forecast`]: what a window will need, before anything is allocated for it (pure).
//! 6. [`engine`]: the thread that owns a model: queue, scheduler, sequences, sampling, text.
//! 7. [`backend`]: the seam towards callers: windows in, tokens out. [`load`] makes one, [`registry`]
//!    one for all who load the same model.

mod amounts;
pub mod backend;
pub mod config;
pub mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "cuda/absent.rs"]
mod cuda;
pub mod detokenize;
pub mod engine;
mod file;
pub mod forecast;
pub mod frames;
pub mod hub;
mod index;
pub mod load;
pub mod model;
pub mod prompt;
mod quote;
pub mod registry;
pub mod sampling;
#[doc(hidden)]
pub mod testing;
pub mod tokenizer;
pub mod window;

pub use cpu::priority::lower_priority;
