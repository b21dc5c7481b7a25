//! The vision tower's operations.

use candle_core::{DType, Result, Tensor};

use super::super::activation::{add, gelu_tanh};
use super::super::attention::attend;
use super::super::linear::{Linear, Reused};
use super::super::norm::LayerNorm;
use super::super::ops::VisionOps;
use super::super::vision::{Geometry, attend_grids};
use super::check;
use crate::cpu::pool::Flag;

/// Operations for grids of one size.
pub(super) struct TensorVision<'a> {
    pub(super) flag: &'a Flag,
    pub(super) geometry: &'a Geometry,
    pub(super) reused: &'a mut (Reused, Reused),
}

impl VisionOps for TensorVision<'_> {
    fn check(&self) -> Result<()> {
        check(self.flag)
    }

    fn layer_norm(&mut self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        norm.forward(x)
    }

    fn add_linear_norm(
        &mut self,
        x: Tensor,
        linear: &Linear,
        input: &Tensor,
        norm: &LayerNorm,
    ) -> Result<(Tensor, Tensor)> {
        let sum = add(linear.forward(input)?, &x)?;
        let normed = norm.forward(&sum)?;
        Ok((sum, normed))
    }

    fn attend(&mut self, qkv: &Linear, x: &Tensor, heads: usize) -> Result<Tensor> {
        let qkv = qkv.forward_into(x, &mut self.reused.0)?;
        let per_grid = self.geometry.patches()?;
        // The reference rotates in f32 whatever the type of arithmetic.
        let rotate = |part: Tensor| {
            let wide = part.to_dtype(DType::F32)?;
            self.geometry.rope.rotate(&wide)?.to_dtype(qkv.dtype())
        };
        attend_grids(&qkv, heads, per_grid, |[q, k, v]| {
            let (q, k) = (rotate(q)?, rotate(k)?);
            attend(&q, &[&(k, v.contiguous()?)], per_grid, false)
        })
    }

    fn linear_gelu(&mut self, linear: &Linear, x: &Tensor) -> Result<Tensor> {
        gelu_tanh(linear.forward_into(x, &mut self.reused.1)?)
    }
}
