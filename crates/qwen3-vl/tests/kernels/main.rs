//! The CUDA kernels, run on the CPU by `emulate.h`, against their twins in this crate. On a GPU
//! `engine kernels` makes comparisons like these (`scripts/gpu-check`).

#![allow(clippy::unwrap_used)]

mod attention;
mod choice;
mod emulated;
mod rows;
mod vision;
