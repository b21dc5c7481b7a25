//! Dense matrices.

use candle_core::{CpuStorage, CustomOp2, Device, InplaceOp3, Layout, Result, Shape, Tensor, bail};

use super::{slice, slice_mut};
use crate::cpu::matmul::{matmul_t, matmul_t_into};
use crate::cuda::few_rows;

/// `x Wᵀ` for `x` `[rows, in]` and `W` `[out, in]`: by a kernel of [`crate::cpu`] on the CPU;
/// elsewhere by our kernel for few rows or candle's product.
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub(super) fn product(weight: &Tensor, x: &Tensor) -> Result<Tensor> {
    match x.device() {
        Device::Cpu => x.apply_op2_no_bwd(weight, &MatmulT),
        _ => match few_rows(weight, x)? {
            Some(product) => Ok(product),
            None => x.matmul(&weight.t()?),
        },
    }
}

/// [`product`] into `out`, on the CPU.
///
/// # Errors
///
/// If the shapes do not fit or the tensors are not on the CPU.
pub(super) fn product_into(weight: &Tensor, x: &Tensor, out: &Tensor) -> Result<()> {
    out.inplace_op3(x, weight, &MatmulT)
}

/// `x Wᵀ` for `x` `[m, k]` in f32 and `W` `[n, k]` in f32, bf16 or f16.
struct MatmulT;

impl CustomOp2 for MatmulT {
    fn name(&self) -> &'static str {
        "matmul-t"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = sizes(x_layout, w_layout)?;
        let x = slice(x.as_slice::<f32>()?, x_layout)?;
        let out = match w {
            CpuStorage::BF16(w) => matmul_t(x, slice(w, w_layout)?, sizes),
            CpuStorage::F16(w) => matmul_t(x, slice(w, w_layout)?, sizes),
            CpuStorage::F32(w) => matmul_t(x, slice(w, w_layout)?, sizes),
            _ => bail!("matmul-t: weights are f32, bf16 or f16"),
        };
        Ok((CpuStorage::F32(out), (sizes.0, sizes.1).into()))
    }
}

impl InplaceOp3 for MatmulT {
    fn name(&self) -> &'static str {
        "matmul-t"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<()> {
        let sizes = sizes(x_layout, w_layout)?;
        if out_layout.shape().dims2()? != (sizes.0, sizes.1) {
            bail!(
                "matmul-t: [{}, {}] into {:?}",
                sizes.0,
                sizes.1,
                out_layout.shape()
            );
        }
        let out = slice_mut(out, out_layout)?;
        let x = slice(x.as_slice::<f32>()?, x_layout)?;
        match w {
            CpuStorage::BF16(w) => matmul_t_into(x, slice(w, w_layout)?, sizes, out),
            CpuStorage::F16(w) => matmul_t_into(x, slice(w, w_layout)?, sizes, out),
            CpuStorage::F32(w) => matmul_t_into(x, slice(w, w_layout)?, sizes, out),
            _ => bail!("matmul-t: weights are f32, bf16 or f16"),
        }
        Ok(())
    }
}

/// m, n and k of `[m, k]` and `[n, k]`.
fn sizes(x: &Layout, w: &Layout) -> Result<(usize, usize, usize)> {
    let ((m, k), (n, k_w)) = (x.shape().dims2()?, w.shape().dims2()?);
    if k != k_w {
        bail!("matmul-t: [{m}, {k}] with [{n}, {k_w}]");
    }
    Ok((m, n, k))
}
