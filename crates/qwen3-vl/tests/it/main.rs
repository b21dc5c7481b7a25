//! Integration tests of the engine, a module for each subject. They are one program, so that the
//! libraries are linked once; cargo-nextest runs each test in a process of its own. Another program
//! runs the kernels on the CPU (`tests/kernels`).
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

mod checkpoints;
mod compute;
mod configs;
mod cut_off;
mod engine;
mod estimate;
mod folders;
mod formats;
mod fp8_at_load;
mod fuzz_smoke;
mod gguf;
mod hub;
mod hub_cancel;
mod hub_gguf;
mod hub_headers;
mod hub_hostile;
mod int8;
mod packed;
mod parity;
mod processors;
mod quantization_config;
mod quantized;
mod thinking;
mod tokenizer_file;
mod weights;
