//! The vision tower (transformers: `Qwen3VLVisionModel`): patches of grids to vision tokens.
//!
//! Attention stays within one temporal patch, so each frame pair is encoded by itself when it
//! arrives, and its tokens are valid for every window that has the pair.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::activation::add;
use super::linear::Linear;
use super::norm::LayerNorm;
use super::ops::VisionOps;
use super::rope::{RopeTable, grid_positions, vision_table};
use crate::config::VisionConfig;
use crate::weights::{Weights, WeightsError};

/// The vision tower.
#[derive(Debug)]
pub struct VisionTower {
    patch_embed: Linear,
    /// Learned positions `[side * side, hidden]`, f32.
    pos_embed: Tensor,
    blocks: Vec<Block>,
    merger: Merger,
    /// Block index and merger of each DeepStack tap, in the order of the language model's layers.
    deepstack: Vec<(usize, Merger)>,
    config: VisionConfig,
}

/// Rows and columns of a grid, in patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Rows of patches.
    pub rows: usize,
    /// Columns of patches.
    pub columns: usize,
}

/// Positions that depend only on a grid's size, to be computed once per size.
#[derive(Clone, Debug)]
pub struct Geometry {
    pos_embed: Tensor,
    pub(crate) rope: RopeTable,
}

/// The vision tokens of one grid, or of several grids of one size.
#[derive(Clone, Debug)]
pub struct VisionTokens {
    /// Rows that replace the placeholders' embeddings, `[tokens, text hidden]`.
    pub embeddings: Tensor,
    /// Rows that are added behind each of the language model's first layers; same shape.
    pub deepstack: Vec<Tensor>,
}

impl Geometry {
    /// Number of patches of a grid.
    pub(crate) fn patches(&self) -> Result<usize> {
        self.pos_embed.dim(0)
    }
}

impl VisionTokens {
    /// The tokens of each of `grids` grids of one size.
    ///
    /// # Errors
    ///
    /// If the tokens cannot be divided by `grids`.
    pub fn split(&self, grids: usize) -> Result<Vec<Self>> {
        let all = self.embeddings.dim(0)?;
        if grids == 0 || !all.is_multiple_of(grids) {
            bail!("{all} tokens of {grids} grids");
        }
        let tokens = all / grids;
        let grid = |grid: usize| {
            let part = |t: &Tensor| t.narrow(0, grid * tokens, tokens);
            Ok(Self {
                embeddings: part(&self.embeddings)?,
                deepstack: self.deepstack.iter().map(part).collect::<Result<_>>()?,
            })
        };
        (0..grids).map(grid).collect()
    }
}

impl VisionTower {
    /// Loads `model.visual.*`.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn load(
        weights: &Weights,
        config: &VisionConfig,
    ) -> std::result::Result<Self, WeightsError> {
        let name = "model.visual";
        let c = config;
        let patch = [
            c.in_channels,
            c.temporal_patch_size,
            c.patch_size,
            c.patch_size,
        ];
        let patch_embed = Linear::load_flattened(
            weights,
            &format!("{name}.patch_embed.proj"),
            &[c.hidden_size, patch[0], patch[1], patch[2], patch[3]],
        )?;
        let blocks = (0..c.depth)
            .map(|i| Block::load(weights, &format!("{name}.blocks.{i}"), c))
            .collect::<std::result::Result<_, _>>()?;
        let deepstack = c
            .deepstack_visual_indexes
            .iter()
            .enumerate()
            .map(|(i, &tap)| {
                let name = format!("{name}.deepstack_merger_list.{i}");
                Ok((tap, Merger::load(weights, &name, c, NormPlace::AfterMerge)?))
            })
            .collect::<std::result::Result<_, WeightsError>>()?;
        Ok(Self {
            patch_embed,
            pos_embed: weights.full(
                &format!("{name}.pos_embed.weight"),
                &[c.num_position_embeddings, c.hidden_size],
            )?,
            blocks,
            merger: Merger::load(
                weights,
                &format!("{name}.merger"),
                c,
                NormPlace::BeforeMerge,
            )?,
            deepstack,
            config: config.clone(),
        })
    }

    /// Positions for grids of this size.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn geometry(&self, grid: Grid) -> Result<Geometry> {
        let config = &self.config;
        let positions = grid_positions(grid.rows, grid.columns, config.spatial_merge_size);
        let head_dim = config.hidden_size / config.num_heads;
        let rope = vision_table(
            &positions,
            head_dim,
            config.rope_theta,
            self.pos_embed.device(),
        )?;
        Ok(Geometry {
            pos_embed: self.interpolate(grid, &positions)?,
            rope,
        })
    }

    /// The learned table, bilinearly resampled with aligned corners
    /// (transformers: `get_vision_interpolation_indices_and_weights`).
    fn interpolate(&self, grid: Grid, positions: &[(usize, usize)]) -> Result<Tensor> {
        let side = self.config.position_side();
        let taps = |at: usize, size: usize| {
            let source = at as f32 * (side - 1) as f32 / (size.max(2) - 1) as f32;
            let low = source.floor();
            let weight = source - low;
            let index = |i: f32| (i as usize).min(side - 1);
            [(index(low), 1.0 - weight), (index(low + 1.0), weight)]
        };
        let mut sum: Option<Tensor> = None;
        for tap in 0..4 {
            let (indices, weights): (Vec<u32>, Vec<f32>) = positions
                .iter()
                .map(|&(row, column)| {
                    let (y, wy) = taps(row, grid.rows)[tap / 2];
                    let (x, wx) = taps(column, grid.columns)[tap % 2];
                    ((y * side + x) as u32, wy * wx)
                })
                .unzip();
            let (device, n) = (self.pos_embed.device(), positions.len());
            let indices = Tensor::from_vec(indices, n, device)?;
            let weights = Tensor::from_vec(weights, (n, 1), device)?;
            let part = self
                .pos_embed
                .index_select(&indices, 0)?
                .broadcast_mul(&weights)?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        sum.ok_or_else(|| candle_core::Error::Msg("no taps".into()))
    }

    /// The forward pass: encodes grids of one size together, so that the weights are read once.
    /// `patches` is `[grids * rows * columns, 3 * temporal * patch * patch]`, normalised, each grid
    /// in merge-block order. The grids' tokens follow each other.
    pub(crate) fn encode(
        &self,
        ops: &mut impl VisionOps,
        patches: &Tensor,
        geometry: &Geometry,
    ) -> Result<VisionTokens> {
        let x = self.patch_embed.forward(patches)?;
        let (rows, width) = x.dims2()?;
        let pos_embed = geometry.pos_embed.to_dtype(x.dtype())?;
        let x = add(x.reshape(((), geometry.patches()?, width))?, &pos_embed)?;
        let mut x = x.reshape((rows, width))?;
        let mut deepstack = Vec::with_capacity(self.deepstack.len());
        let mut normed = ops.layer_norm(&x, self.norm(0))?;
        for (index, block) in self.blocks.iter().enumerate() {
            ops.check()?;
            let seen = ops.attend(&block.qkv, &normed, block.heads)?;
            (x, normed) = ops.add_linear_norm(x, &block.proj, &seen, &block.norm2)?;
            let inner = ops.linear_gelu(&block.fc1, &normed)?;
            (x, normed) = ops.add_linear_norm(x, &block.fc2, &inner, self.norm(index + 1))?;
            for (_, merger) in self.deepstack.iter().filter(|(tap, _)| *tap == index) {
                let merged = x.reshape(((), merger.merged))?;
                deepstack.push(merger.forward(&ops.layer_norm(&merged, &merger.norm)?)?);
            }
        }
        Ok(VisionTokens {
            embeddings: self.merger.forward(&normed)?,
            deepstack,
        })
    }

    /// The norm in front of a block; behind the last block that of the merger, which also
    /// normalises first.
    fn norm(&self, block: usize) -> &LayerNorm {
        let block = self.blocks.get(block);
        block.map_or(&self.merger.norm, |block| &block.norm1)
    }

    /// Type of arithmetic.
    pub fn dtype(&self) -> DType {
        self.merger.norm.parts().0.dtype()
    }

    /// Its dimensions.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// [`bytes_per_token`] of this tower.
    pub fn bytes_per_token(&self, dtype: DType) -> u64 {
        bytes_per_token(&self.config, dtype)
    }

    /// The tower's device.
    pub fn device(&self) -> &Device {
        self.pos_embed.device()
    }
}

/// Peak memory of encoding in bytes per vision token, in this type of arithmetic: the patches;
/// queries, keys and values and their rotated copies beside a block's input and output; and the
/// inner layer of its MLP.
pub fn bytes_per_token(c: &VisionConfig, dtype: DType) -> u64 {
    let values = c.patch_len() + 10 * c.hidden_size + c.intermediate_size;
    let patches = c.spatial_merge_size * c.spatial_merge_size;
    (patches * values * dtype.size_in_bytes()) as u64
}

/// A block: attention within a grid, then the MLP (transformers: `Qwen3VLVisionBlock`).
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    norm2: LayerNorm,
    qkv: Linear,
    proj: Linear,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
}

impl Block {
    fn load(
        weights: &Weights,
        name: &str,
        c: &VisionConfig,
    ) -> std::result::Result<Self, WeightsError> {
        let linear =
            |part: &str, shape| Linear::load_with_bias(weights, &format!("{name}.{part}"), shape);
        let (d, inner) = (c.hidden_size, c.intermediate_size);
        Ok(Self {
            norm1: LayerNorm::load(weights, &format!("{name}.norm1"), d)?,
            norm2: LayerNorm::load(weights, &format!("{name}.norm2"), d)?,
            qkv: linear("attn.qkv", (3 * d, d))?,
            proj: linear("attn.proj", (d, d))?,
            fc1: linear("mlp.linear_fc1", (inner, d))?,
            fc2: linear("mlp.linear_fc2", (d, inner))?,
            heads: c.num_heads,
        })
    }
}

/// Attention of patches within their own grid: `qkv` `[patches, 3 * heads * width]` to `[patches,
/// heads * width]`. `attend` computes one grid, whose queries, keys and values are `[per_grid,
/// heads, width]`.
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub(crate) fn attend_grids(
    qkv: &Tensor,
    heads: usize,
    per_grid: usize,
    attend: impl Fn([Tensor; 3]) -> Result<Tensor>,
) -> Result<Tensor> {
    let patches = qkv.dim(0)?;
    let qkv = qkv.reshape((patches, 3 * heads, ()))?;
    let grids = (0..patches / per_grid).map(|grid| {
        let qkv = qkv.narrow(0, grid * per_grid, per_grid)?;
        let part = |i: usize| qkv.narrow(1, i * heads, heads);
        attend([part(0)?, part(1)?, part(2)?])
    });
    match &grids.collect::<Result<Vec<_>>>()?[..] {
        [one] => Ok(one.clone()),
        all => Tensor::cat(all, 0),
    }
}

/// Whether a merger normalises before or after it merges patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NormPlace {
    BeforeMerge,
    AfterMerge,
}

/// Merges each merge block to one token (transformers: `Qwen3VLVisionPatchMerger`).
#[derive(Debug)]
struct Merger {
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    merged: usize,
}

impl Merger {
    fn load(
        weights: &Weights,
        name: &str,
        c: &VisionConfig,
        place: NormPlace,
    ) -> std::result::Result<Self, WeightsError> {
        let merged = c.hidden_size * c.spatial_merge_size.pow(2);
        let width = if place == NormPlace::AfterMerge {
            merged
        } else {
            c.hidden_size
        };
        let linear =
            |part: &str, shape| Linear::load_with_bias(weights, &format!("{name}.{part}"), shape);
        Ok(Self {
            norm: LayerNorm::load(weights, &format!("{name}.norm"), width)?,
            fc1: linear("linear_fc1", (merged, merged))?,
            fc2: linear("linear_fc2", (c.out_hidden_size, merged))?,
            merged,
        })
    }

    /// Merges normalised patches to tokens.
    fn forward(&self, normed: &Tensor) -> Result<Tensor> {
        let x = normed.reshape(((), self.merged))?;
        // The mergers use the exact GELU, unlike the blocks.
        self.fc2.forward(&self.fc1.forward(&x)?.gelu_erf()?)
    }
}
