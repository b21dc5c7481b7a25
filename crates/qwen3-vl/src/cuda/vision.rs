//! The vision tower's blocks, kernel by kernel (twin: the same in [`crate::model::vision`]).

use candle_core::{Result, Tensor, bail};

use super::attention;
use super::pass::Pass;
use super::rope;
use super::rows::{add_layer_norm, bias_gelu};
use super::workspace::Workspace;
use crate::model::linear::Linear;
use crate::model::vision::{Block, VisionTokens, VisionTower, attend_grids};
use crate::model::{Geometry, Workspace as Shared};

/// Whether there are kernels for rows like these.
pub fn knows(x: &Tensor) -> bool {
    x.device().is_cuda()
        && super::knows(x.dtype())
        && matches!(x.dims(), [_, width] if width.is_multiple_of(8))
}

/// Whether there are kernels for all of the tower's blocks, given embedded patches.
pub fn can_run(tower: &VisionTower, x: &Tensor) -> bool {
    let inner = |block: &Block| block.fc1.bias().map_or(0, Tensor::elem_count);
    let mut blocks = tower.blocks.iter();
    knows(x) && blocks.all(|block| inner(block).is_multiple_of(8))
}

/// Runs embedded patches `[patches, hidden]`, which are used up, through the blocks: the vision tokens of grids
/// of one size, of so many patches each.
///
/// # Errors
///
/// If the device fails.
pub fn forward(
    tower: &VisionTower,
    x: &Tensor,
    per_grid: usize,
    geometry: &Geometry,
    workspace: &mut Shared,
) -> Result<VisionTokens> {
    let pass = pass(x, per_grid, &mut workspace.cuda)?;
    let first = tower.blocks.first().map(|block| &block.norm1);
    let mut normed = add_layer_norm(x, None, first.unwrap_or(&tower.merger.norm))?;
    let mut deepstack = Vec::with_capacity(tower.deepstack.len());
    for (index, block) in tower.blocks.iter().enumerate() {
        let seen = attend(block, &normed, per_grid, geometry, &pass)?;
        let delta = (&block.proj.product(&seen)?, bias(&block.proj)?);
        let inner = block
            .fc1
            .product(&add_layer_norm(x, Some(delta), &block.norm2)?)?;
        bias_gelu(&inner, bias(&block.fc1)?)?;
        let delta = (&block.fc2.product(&inner)?, bias(&block.fc2)?);
        // The tokens' merger normalises first, like a block.
        let next = tower.blocks.get(index + 1).map(|block| &block.norm1);
        normed = add_layer_norm(x, Some(delta), next.unwrap_or(&tower.merger.norm))?;
        for (_, merger) in tower.deepstack.iter().filter(|(tap, _)| *tap == index) {
            deepstack.push(merger.forward(x)?);
        }
    }
    Ok(VisionTokens {
        embeddings: tower.merger.merge(&normed)?,
        deepstack,
    })
}

/// What attention needs to know.
fn pass(x: &Tensor, per_grid: usize, workspace: &mut Workspace) -> Result<Pass> {
    let (patches, width) = x.dims2()?;
    let bytes = 3 * width * x.dtype().size_in_bytes();
    attention::grids(patches / per_grid, per_grid, bytes, x, workspace)
}

fn attend(
    block: &Block,
    x: &Tensor,
    per_grid: usize,
    geometry: &Geometry,
    pass: &Pass,
) -> Result<Tensor> {
    let qkv = block.qkv.product(x)?;
    rope::rotate(&qkv, bias(&block.qkv)?, block.heads, &geometry.rope)?;
    match attention::vision(&qkv, block.heads, pass)? {
        Some(seen) => Ok(seen),
        None => attend_grids(&qkv, block.heads, per_grid, |part| part.contiguous()),
    }
}

fn bias(of: &Linear) -> Result<&Tensor> {
    match of.bias() {
        Some(bias) => Ok(bias),
        None => bail!("a layer of the vision tower without a bias"),
    }
}
