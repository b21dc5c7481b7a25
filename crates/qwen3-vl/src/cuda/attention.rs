//! Attention over the paged KV cache, and in the vision tower.

use candle_core::{CudaDevice, DType, Result, Tensor, bail};

use super::launch::{address, device_of, first_value, launch, unwritten};
use super::pass::Pass;
use super::rows::pitch;
use super::suffix;
use super::workspace::Workspace;
use crate::model::attention_metadata::AttentionMetadata;
use crate::model::heads::Heads;
use crate::model::kv_cache::BLOCK_TOKENS;

/// Head widths with kernels, for the language model and for the vision tower.
const HEADS: [usize; 3] = [32, 64, 128];
const VISION_HEADS: [usize; 4] = [32, 64, 72, 128];
/// Query heads per key head that have kernels.
const GROUPS: [usize; 4] = [1, 2, 4, 8];
const _: () = assert!(BLOCK_TOKENS == 128);

/// Thread blocks that keep a large device busy: two for each of 132 multiprocessors.
const BUSY: usize = 264;
/// Threads per block.
const THREADS: u32 = 128;

/// Whether there are kernels for these heads.
pub fn is_supported(heads: Heads) -> bool {
    HEADS.contains(&heads.width) && GROUPS.iter().any(|group| group * heads.kv == heads.count)
}

/// Offsets in a KV block, in bytes: from its start to the keys of a layer, and from those to the
/// layer's values.
pub fn place(heads: Heads, layer: usize, dtype: DType) -> (u64, u64) {
    let (layer, values) = heads.place(layer);
    let bytes = |values: usize| (values * dtype.size_in_bytes()) as u64;
    (bytes(layer), bytes(values))
}

/// Causal attention of the sequences with one query, into their rows of `out`. `q` and `out` are
/// `[rows, heads * width]` (twin: [`crate::cpu::attention::attend`]).
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub fn decode(q: &Tensor, pass: &Pass, layer: usize, heads: Heads, out: &Tensor) -> Result<()> {
    check(q, pass, heads, out)?;
    let (sequences, count) = pass.decoding;
    if count == 0 {
        return Ok(());
    }
    let (device, suffix) = (device_of(q)?, suffix(q.dtype())?);
    // The grid does not depend on lengths, so that a recorded step can be replayed; a thread block
    // without keys ends at once.
    let splits = (BUSY / (heads.kv * count)).max(1);
    let (layer, values) = place(heads, layer, q.dtype());
    let Heads { width, .. } = heads;
    // SAFETY: the first kernel writes all of them.
    let partial = unsafe {
        unwritten(
            (count * heads.count * splits, width + 2),
            DType::F32,
            device,
        )?
    };
    let arguments = [
        address(q)?.into(),
        pass.pages.into(),
        sequences.into(),
        address(&partial)?.into(),
        layer.into(),
        values.into(),
        scale(width).into(),
    ];
    let name = format!("decode_attention_{suffix}_{width}_{}", heads.group());
    let grid = (heads.kv, splits, count);
    // SAFETY: the arguments of decode_attention.cu; the pass holds the page addresses of its
    // sequences.
    unsafe { launch(device, &name, grid, THREADS, &arguments)? };
    let arguments = [
        address(&partial)?.into(),
        sequences.into(),
        address(out)?.into(),
        (splits as u32).into(),
    ];
    let name = format!("decode_attention_merge_{suffix}_{width}");
    // SAFETY: likewise; the rows of `out` are those of the pass.
    unsafe {
        launch(
            device,
            &name,
            (heads.count, count, 1),
            width as u32,
            &arguments,
        )
    }
}

/// Causal attention of the sequences with more queries, in bf16, into their rows of `out` (twin:
/// [`crate::cpu::attention::attend`]).
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub fn prefill(q: &Tensor, pass: &Pass, layer: usize, heads: Heads, out: &Tensor) -> Result<()> {
    check(q, pass, heads, out)?;
    let (layer, values) = place(heads, layer, q.dtype());
    let launch = Launch {
        q: address(q)?,
        q_pitch: (heads.count * heads.width) as u32,
        kv_pitch: (heads.kv * heads.width) as u32,
        heads,
        causal: true,
        layer,
        values,
    };
    launch.run(q.dtype(), pass, out, device_of(q)?)
}

/// The pass for [`vision`]: `grids` grids of `patches` patches, on the device of `like`. A patch's
/// queries, keys and values take `patch_bytes` together.
///
/// # Errors
///
/// If the device fails.
pub fn grids(
    grids: usize,
    patches: usize,
    patch_bytes: usize,
    like: &Tensor,
    workspace: &mut Workspace,
) -> Result<Pass> {
    let metadata = AttentionMetadata::of_grids(grids, patches, patch_bytes);
    Pass::new(
        &metadata,
        0,
        device_of(like)?,
        &mut workspace.vision_staging,
    )
}

/// Attention of patches within their grid, in bf16: `qkv` `[patches, 3 * heads * width]`, with
/// queries and keys rotated, to `[patches, heads * width]`. None if there is no kernel for it
/// (twin: [`crate::cpu::attention::attend`]).
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub fn vision(qkv: &Tensor, heads: usize, pass: &Pass) -> Result<Option<Tensor>> {
    let (patches, all) = qkv.dims2()?;
    let width = all / (3 * heads);
    if qkv.dtype() != DType::BF16 || !VISION_HEADS.contains(&width) {
        return Ok(None);
    }
    let device = device_of(qkv)?;
    // SAFETY: every patch is a query of the pass.
    let out = unsafe { unwritten((patches, heads * width), DType::BF16, device)? };
    let part = (heads * width * DType::BF16.size_in_bytes()) as u64;
    let launch = Launch {
        q: first_value(qkv)?,
        q_pitch: pitch(qkv)?,
        kv_pitch: pitch(qkv)?,
        heads: Heads {
            count: heads,
            kv: heads,
            width,
        },
        causal: false,
        // The pages of the pass are offsets from the first key.
        layer: first_value(qkv)? + part,
        values: part,
    };
    launch.run(qkv.dtype(), pass, &out, device)?;
    Ok(Some(out))
}

/// A launch of `attention.cu`.
struct Launch {
    q: u64,
    q_pitch: u32,
    kv_pitch: u32,
    heads: Heads,
    causal: bool,
    layer: u64,
    values: u64,
}

impl Launch {
    fn run(self, dtype: DType, pass: &Pass, out: &Tensor, device: &CudaDevice) -> Result<()> {
        if dtype != DType::BF16 || !VISION_HEADS.contains(&self.heads.width) {
            bail!("attention: no kernel for {:?} in {dtype:?}", self.heads);
        }
        let (tiles, count) = pass.tiles;
        let arguments = [
            self.q.into(),
            pass.pages.into(),
            tiles.into(),
            pass.prefilling.0.into(),
            address(out)?.into(),
            self.q_pitch.into(),
            self.kv_pitch.into(),
            (self.heads.group() as u32).into(),
            u32::from(self.causal).into(),
            self.layer.into(),
            self.values.into(),
            scale(self.heads.width).into(),
        ];
        let name = format!("attention_{}", self.heads.width);
        // SAFETY: the arguments of attention.cu; the pass holds its sequences and their page
        // addresses.
        unsafe {
            launch(
                device,
                &name,
                (count, self.heads.kv, 1),
                THREADS,
                &arguments,
            )
        }
    }
}

fn check(q: &Tensor, pass: &Pass, heads: Heads, out: &Tensor) -> Result<()> {
    let shape = (pass.rows, heads.count * heads.width);
    let fits = is_supported(heads)
        && q.dims2()? == shape
        && out.dims2()? == shape
        && q.dtype() == out.dtype();
    if !fits {
        bail!(
            "attention: {:?} of {heads:?} to {:?}",
            q.shape(),
            out.shape()
        );
    }
    Ok(())
}

fn scale(width: usize) -> f32 {
    (width as f32).powf(-0.5)
}
