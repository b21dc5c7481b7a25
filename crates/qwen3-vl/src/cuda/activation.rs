//! Activations.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaStorage, DType, Layout, Result, bail};
use half::bf16;

use super::{kernel, range, suffix};

/// `gate = silu(gate) * up` (twin: [`crate::cpu::activation::silu_mul`]).
///
/// # Errors
///
/// If the sizes or types differ, [`super::knows`] not the type, or the device fails.
pub fn silu_mul(
    (gate, gate_layout): (&mut CudaStorage, &Layout),
    (up, up_layout): (&CudaStorage, &Layout),
) -> Result<()> {
    match gate.dtype() {
        DType::F32 => run::<f32>((gate, gate_layout), (up, up_layout)),
        _ => run::<bf16>((gate, gate_layout), (up, up_layout)),
    }
}

fn run<T: CudaDType + DeviceRepr>(
    (gate, gate_layout): (&mut CudaStorage, &Layout),
    (up, up_layout): (&CudaStorage, &Layout),
) -> Result<()> {
    let (range, other) = (range(gate_layout)?, range(up_layout)?);
    let count = range.len();
    if other.len() != count {
        bail!("silu-mul: {count} values and {}", other.len());
    }
    if count == 0 {
        return Ok(());
    }
    let device = gate.device.clone();
    let function = kernel(&device, &format!("silu_mul_{}", suffix(gate.dtype())?))?;
    let mut gate = T::as_cuda_slice_mut(gate)?.slice_mut(range);
    let up = up.as_cuda_slice::<T>()?.slice(other);
    let (stream, values) = (device.cuda_stream(), count as u64);
    let mut launch = stream.launch_builder(&function);
    launch.arg(&mut gate).arg(&up).arg(&values);
    // SAFETY: the kernel takes these, and both have `count` values.
    unsafe { launch.launch(LaunchConfig::for_num_elems(count as u32)) }.w()?;
    Ok(())
}
