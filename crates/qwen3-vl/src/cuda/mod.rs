//! The model on an NVIDIA GPU: what candle does slowly or not at all is done by the kernels of
//! `kernels/*.cu`, which `build.rs` compiles. Each has a twin in [`crate::cpu`] that it is tested against.
//!
//! Everything on a device is done by one stream, so that work is in order without events: see
//! [`device::open`].

pub mod attention;
pub mod choice;
pub mod decoder;
pub mod device;
pub mod graph;
pub mod handover;
mod launch;
pub mod pass;
pub mod patches;
mod rows;
pub mod softmax;
pub mod staging;
pub mod workspace;

use candle_core::{DType, Result, bail};

pub use rows::silu_mul;

/// Whether there are kernels for values of this type.
pub fn knows(dtype: DType) -> bool {
    suffix(dtype).is_ok()
}

/// The end of the names of kernels for a type.
fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::BF16 => Ok("bf16"),
        other => bail!("no kernels for {other:?}"),
    }
}
