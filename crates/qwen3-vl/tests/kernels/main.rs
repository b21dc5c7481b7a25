//! Compares the CUDA kernels, run on the CPU by `emulate.h`, with their twins in this crate. On a
//! GPU `engine kernels` makes such comparisons (`scripts/gpu-check`).

#![allow(clippy::unwrap_used)]

mod attention;
mod choice;
mod emulated;
mod experts;
mod products;
mod rows;
mod vision;
