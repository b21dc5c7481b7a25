//! Qwen3-VL for video: computes what Hugging Face transformers computes, in Rust, on candle.
//!
//! Callers also need [`qwen3_vl_core`]: frames, windows, prompts, requests, events.
//!
//! 1. [`load`] makes a [`local`] backend of a checkpoint's files ([`hub`], [`config`],
//!    [`tokenizer`]) on a [`device`]; [`shared`] shares it among callers that load the same model.
//! 2. [`engine`]: the thread that owns a model: queue, scheduler, sequences, sampling, text.
//! 3. [`weights`]: tensors of a checkpoint, from any supported file format.
//! 4. [`model`]: vision tower, text model, KV cache; [`cpu`] has its kernels for the CPU,
//!    `kernels/` those for NVIDIA GPUs.

mod amounts;
mod choice;
pub mod compute;
pub mod config;
pub mod cpu;
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "cuda/absent.rs"]
mod cuda;
pub mod detokenize;
pub mod device;
pub mod engine;
mod file;
mod folder;
pub mod hub;
mod index;
pub mod load;
pub mod local;
mod memory;
pub mod model;
mod quote;
pub mod sampling;
pub mod shared;
pub mod tokenizer;
pub mod weights;
