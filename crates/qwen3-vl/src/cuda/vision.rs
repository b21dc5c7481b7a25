//! The vision tower's operations, by our kernels.

use candle_core::{Result, Tensor, bail};

use super::pass::Pass;
use super::rows::{add_layer_norm, bias_gelu};
use super::workspace::Workspace;
use super::{attention, is_supported, rope, softmax};
use crate::model::attention::attend_products;
use crate::model::linear::Linear;
use crate::model::norm::LayerNorm;
use crate::model::ops::VisionOps;
use crate::model::vision::{Geometry, VisionTokens, VisionTower, attend_grids};

/// Whether there are kernels for the tower.
pub fn supports(tower: &VisionTower) -> bool {
    let c = tower.config();
    let widths = [c.hidden_size, c.intermediate_size];
    tower.device().is_cuda()
        && is_supported(tower.dtype())
        && widths.iter().all(|width| width.is_multiple_of(8))
}

/// Encodes patches of grids of one size, kernel by kernel.
///
/// # Errors
///
/// If the device fails.
pub fn tokens(
    tower: &VisionTower,
    patches: &Tensor,
    geometry: &Geometry,
    workspace: &mut Workspace,
) -> Result<VisionTokens> {
    let (per_grid, rows) = (geometry.patches()?, patches.dim(0)?);
    let bytes = 3 * tower.config().hidden_size * tower.dtype().size_in_bytes();
    let pass = attention::grids(rows / per_grid, per_grid, bytes, patches, workspace)?;
    let mut kernels = VisionKernels {
        pass: &pass,
        geometry,
        per_grid,
    };
    tower.encode(&mut kernels, patches, geometry)
}

/// Operations for grids of one size.
struct VisionKernels<'a> {
    pass: &'a Pass,
    geometry: &'a Geometry,
    per_grid: usize,
}

impl VisionOps for VisionKernels<'_> {
    fn layer_norm(&mut self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        add_layer_norm(x, None, norm)
    }

    fn add_linear_norm(
        &mut self,
        x: Tensor,
        linear: &Linear,
        input: &Tensor,
        norm: &LayerNorm,
    ) -> Result<(Tensor, Tensor)> {
        let delta = linear.product(input)?;
        let normed = add_layer_norm(&x, Some((&delta, bias(linear)?)), norm)?;
        Ok((x, normed))
    }

    fn attend(&mut self, qkv: &Linear, x: &Tensor, heads: usize) -> Result<Tensor> {
        let bias = bias(qkv)?;
        let qkv = qkv.product(x)?;
        rope::rotate(&qkv, bias, heads, &self.geometry.rope)?;
        if let Some(seen) = attention::vision(&qkv, heads, self.pass)? {
            return Ok(seen);
        }
        attend_grids(&qkv, heads, self.per_grid, |[q, k, v]| {
            let keys = (k.contiguous()?, v.contiguous()?);
            let (q, keys, count) = (q.contiguous()?, [&keys], self.per_grid);
            attend_products(&q, &keys, count, false, softmax::weights)
        })
    }

    fn linear_gelu(&mut self, linear: &Linear, x: &Tensor) -> Result<Tensor> {
        let inner = linear.product(x)?;
        bias_gelu(&inner, bias(linear)?)?;
        Ok(inner)
    }
}

fn bias(of: &Linear) -> Result<&Tensor> {
    match of.bias() {
        Some(bias) => Ok(bias),
        None => bail!("a layer of the vision tower without a bias"),
    }
}
