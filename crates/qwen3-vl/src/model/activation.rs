//! Element-wise operations: in place by the kernels of [`crate::cpu`] on the CPU, by candle's
//! operations elsewhere.

use candle_core::{CpuStorage, Device, InplaceOp1, InplaceOp2, Layout, Result, Tensor, bail};

use super::linear::{slice, slice_mut};
use crate::cpu::activation;

/// `sum + other`, where `other` may be one row that is added to all; consumes `sum`.
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub fn add(sum: Tensor, other: &Tensor) -> Result<Tensor> {
    struct Add;
    impl InplaceOp2 for Add {
        fn name(&self) -> &'static str {
            "add"
        }
        fn cpu_fwd(
            &self,
            sum: &mut CpuStorage,
            sum_layout: &Layout,
            other: &CpuStorage,
            other_layout: &Layout,
        ) -> Result<()> {
            let rows = sum_layout.shape().dims();
            if !rows.ends_with(other_layout.shape().dims()) {
                bail!("add: {rows:?} and {:?}", other_layout.shape());
            }
            let other = slice(other.as_slice::<f32>()?, other_layout)?;
            activation::add(slice_mut(sum, sum_layout)?, other);
            Ok(())
        }
    }
    match sum.device() {
        Device::Cpu => sum.inplace_op2(other, &Add).map(|()| sum),
        _ => sum.broadcast_add(other),
    }
}

/// Tanh-approximated GELU; consumes `x`.
///
/// # Errors
///
/// If the device fails.
pub fn gelu_tanh(x: Tensor) -> Result<Tensor> {
    struct Gelu;
    impl InplaceOp1 for Gelu {
        fn name(&self) -> &'static str {
            "gelu-tanh"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            activation::gelu_tanh(slice_mut(storage, layout)?);
            Ok(())
        }
    }
    match x.device() {
        Device::Cpu => x.inplace_op1(&Gelu).map(|()| x),
        _ => x.gelu(),
    }
}

/// `silu(gate) * up`; consumes `gate`.
///
/// # Errors
///
/// If the shapes differ or the device fails.
pub fn silu_mul(gate: Tensor, up: &Tensor) -> Result<Tensor> {
    struct SiluMul;
    impl InplaceOp2 for SiluMul {
        fn name(&self) -> &'static str {
            "silu-mul"
        }
        fn cpu_fwd(
            &self,
            gate: &mut CpuStorage,
            gate_layout: &Layout,
            up: &CpuStorage,
            up_layout: &Layout,
        ) -> Result<()> {
            let up = slice(up.as_slice::<f32>()?, up_layout)?;
            activation::silu_mul(slice_mut(gate, gate_layout)?, up);
            Ok(())
        }
    }
    match gate.device() {
        Device::Cpu => gate.inplace_op2(up, &SiluMul).map(|()| gate),
        _ => gate.silu()? * up,
    }
}
