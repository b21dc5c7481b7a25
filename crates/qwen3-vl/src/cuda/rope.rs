//! Rotary position embeddings, fused with the operations around them.

use candle_core::{Result, Tensor, bail};

use super::attention::place;
use super::launch::{address, device_of, first_value, launch, launch_each, unwritten};
use super::pass::Pass;
use super::rows::pitch;
use super::suffix;
use crate::model::heads::Heads;
use crate::model::norm::RmsNorm;
use crate::model::rope::RopeTable;

/// Heads per thread block of `rope.cu`.
const HEADS_OF_BLOCK: usize = 4;

/// Normalises queries and keys by head, rotates them by the angles of the pass, writes keys and
/// values to the slots of the pass, and returns the queries `[rows, heads * width]`. Each of `q`,
/// `k` and `v` is `[rows, its heads * width]`, with gaps between rows if need be (twins:
/// [`crate::cpu::norm`], [`crate::model::KvCache::write`]).
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub fn write(
    [q, k, v]: [&Tensor; 3],
    [q_norm, k_norm]: [&RmsNorm; 2],
    pass: &Pass,
    heads: Heads,
    layer: usize,
) -> Result<Tensor> {
    let Heads { count, kv, width } = heads;
    let (rows, dtype) = (pass.rows, q.dtype());
    let all = [(q, count), (k, kv), (v, kv)];
    let fits = all
        .iter()
        .all(|(x, heads)| x.dims() == [rows, heads * width] && x.dtype() == dtype)
        && [q_norm, k_norm]
            .iter()
            .all(|norm| norm.weight().dims() == [width]);
    if !fits {
        bail!(
            "rope-write: {:?}, {:?}, {:?}",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    let device = device_of(q)?;
    // SAFETY: the kernel writes all rows.
    let out = unsafe { unwritten((rows, count * width), dtype, device)? };
    let (layer, values) = place(heads, layer, dtype);
    let arguments = [
        first_value(q)?.into(),
        pitch(q)?.into(),
        first_value(k)?.into(),
        pitch(k)?.into(),
        first_value(v)?.into(),
        pitch(v)?.into(),
        address(q_norm.weight())?.into(),
        address(k_norm.weight())?.into(),
        address(&pass.angles)?.into(),
        pass.slots.into(),
        layer.into(),
        values.into(),
        address(&out)?.into(),
        (count as u32).into(),
        (kv as u32).into(),
        q_norm.eps().into(),
    ];
    let name = format!("rope_write_{}_{width}", suffix(dtype)?);
    let grid = ((count + 2 * kv).div_ceil(HEADS_OF_BLOCK), rows, 1);
    // SAFETY: the arguments of rope.cu; slots lie in pages that the caches of the pass hold.
    unsafe { launch(device, &name, grid, 128, &arguments)? };
    Ok(out)
}

/// Adds `bias` `[3 * heads * width]` to `qkv` `[patches, 3 * heads * width]` and rotates queries
/// and keys by the angles of the patches of one grid, in place (twins:
/// [`crate::cpu::activation::add`], [`crate::cpu::norm::rotate`]).
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub fn rotate(qkv: &Tensor, bias: &Tensor, heads: usize, table: &RopeTable) -> Result<()> {
    let (patches, all) = qkv.dims2()?;
    let (cos, sin) = table.parts();
    let (grid, half) = cos.dims2()?;
    let fits = all == 3 * heads * 2 * half
        && bias.dims() == [all]
        && bias.dtype() == qkv.dtype()
        && sin.dims() == cos.dims()
        && patches.is_multiple_of(grid);
    if !fits {
        bail!("vision-rope: {:?} by {:?}", qkv.shape(), cos.shape());
    }
    let count = patches * 3 * heads * half;
    let arguments = [
        address(qkv)?.into(),
        address(bias)?.into(),
        address(cos)?.into(),
        address(sin)?.into(),
        (grid as u32).into(),
        (heads as u32).into(),
        (half as u32).into(),
        (count as u64).into(),
    ];
    let name = format!("vision_rope_{}", suffix(qkv.dtype())?);
    // SAFETY: the arguments of rope.cu; sizes are checked above.
    unsafe { launch_each(device_of(qkv)?, &name, count, &arguments) }
}
