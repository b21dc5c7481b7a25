//! Tests of the engine from outside, a module for each subject. One program, so that the libraries are
//! linked once; cargo-nextest runs every test in a process of its own. What runs kernels on the CPU is
//! another one (`tests/kernels`).
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

mod checkpoints;
mod configs;
mod engine;
mod folders;
mod formats;
mod fuzz_smoke;
mod hub;
mod hub_cancel;
mod hub_hostile;
mod parity;
mod processors;
mod quantized;
mod tokenizer_file;
mod weights;
