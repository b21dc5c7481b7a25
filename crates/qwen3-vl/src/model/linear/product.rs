//! Products with matrices of our own, as candle operations on the CPU.

use candle_core::{CpuStorage, CustomOp1, InplaceOp2, Layout, Result, Shape, Tensor, bail};

use super::{slice, slice_mut};

/// A matrix `[rows, columns]` with kernels for the CPU.
pub(super) trait CpuMatrix: Sync {
    /// What its product is called in errors.
    const NAME: &'static str;

    /// Rows and columns.
    fn dims(&self) -> (usize, usize);

    /// `x[m, columns] Wᵀ` into `out` `[m, rows]`, whatever that holds.
    fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]);
}

/// `x Wᵀ` for `x` `[m, columns]` in f32.
///
/// # Errors
///
/// If the shapes do not fit or `x` is on another device.
pub(super) fn product<M: CpuMatrix>(matrix: &M, x: &Tensor) -> Result<Tensor> {
    x.apply_op1_no_bwd(&MatmulT(matrix))
}

/// [`product`] into `out`.
///
/// # Errors
///
/// If the shapes do not fit or a tensor is on another device.
pub(super) fn product_into<M: CpuMatrix>(matrix: &M, x: &Tensor, out: &Tensor) -> Result<()> {
    out.inplace_op2(x, &MatmulT(matrix))
}

struct MatmulT<'a, M>(&'a M);

impl<M: CpuMatrix> MatmulT<'_, M> {
    /// m and the matrix's rows.
    fn sizes(&self, x: &Layout) -> Result<(usize, usize)> {
        let ((m, k), (n, columns)) = (x.shape().dims2()?, self.0.dims());
        if k != columns {
            bail!("{}: [{m}, {k}] with [{n}, {columns}]", M::NAME);
        }
        Ok((m, n))
    }
}

impl<M: CpuMatrix> CustomOp1 for MatmulT<'_, M> {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (m, n) = self.sizes(layout)?;
        let mut out = vec![0.0; m * n];
        let x = slice(x.as_slice::<f32>()?, layout)?;
        self.0.matmul_t_into(x, m, &mut out);
        Ok((CpuStorage::F32(out), (m, n).into()))
    }
}

impl<M: CpuMatrix> InplaceOp2 for MatmulT<'_, M> {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        x: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (m, n) = self.sizes(layout)?;
        if out_layout.shape().dims2()? != (m, n) {
            bail!("{}: [{m}, {n}] into {:?}", M::NAME, out_layout.shape());
        }
        let x = slice(x.as_slice::<f32>()?, layout)?;
        self.0.matmul_t_into(x, m, slice_mut(out, out_layout)?);
        Ok(())
    }
}
