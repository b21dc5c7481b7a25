//! What candle does slowly on NVIDIA GPUs: the kernels of `kernels/*.cu`, which `build.rs` compiles.
//! Each has a twin in [`crate::cpu`] that it is tested against.

pub mod activation;
pub mod attention;
pub mod softmax;

use candle_core::cuda_backend::cudarc::driver::CudaFunction;
use candle_core::{CudaDevice, DType, Layout, Result, bail};

/// For compute capability 8.0; the driver compiles it for its device.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// A kernel by its name.
fn kernel(device: &CudaDevice, name: &str) -> Result<CudaFunction> {
    let function = device.get_or_load_custom_func(name, "qwen3-vl", PTX)?;
    Ok(function.into_cuda_function())
}

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

/// First and last value of a contiguous tensor in its memory.
fn range(layout: &Layout) -> Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("a CUDA kernel needs contiguous input"),
    }
}
