//! The vision tower's part of `config.json`.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{ConfigError, ensure, ensure_activation, ensure_product, ensure_sizes, merged, rope};

/// The vision tower (transformers: `Qwen3VLVisionConfig`).
#[derive(Clone, Debug, Deserialize)]
pub struct VisionConfig {
    /// Blocks.
    pub depth: usize,
    /// Width.
    pub hidden_size: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Colour channels; must be 3.
    pub in_channels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Frames per patch.
    pub temporal_patch_size: usize,
    /// Side of the square of patches that is merged to one token.
    pub spatial_merge_size: usize,
    /// Width of the vision tokens; the language model's `hidden_size`.
    pub out_hidden_size: usize,
    /// Rows of the learned position table, a square number.
    pub num_position_embeddings: usize,
    /// Blocks after which DeepStack taps the stream.
    pub deepstack_visual_indexes: Vec<usize>,
    /// Activation of the MLP; must be `gelu_pytorch_tanh`.
    pub hidden_act: String,
    /// Base of the position embeddings' frequencies.
    pub rope_theta: f64,
}

/// The file's fields over the defaults.
pub(super) fn complete(mut said: Map<String, Value>) -> Result<Value, ConfigError> {
    let theta = rope::vision_theta(&said)?;
    // transformers' `attribute_map` makes `num_attention_heads` an alias.
    if let Some(heads) = said.remove("num_attention_heads") {
        said.insert("num_heads".into(), heads);
    }
    said.insert("rope_theta".into(), json!(theta));
    Ok(merged(defaults(), said))
}

fn defaults() -> Value {
    json!({
        "depth": 27,
        "hidden_size": 1152,
        "hidden_act": "gelu_pytorch_tanh",
        "intermediate_size": 4304,
        "num_heads": 16,
        "in_channels": 3,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 3584,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24],
    })
}

impl VisionConfig {
    /// Side of the learned position table.
    pub fn position_side(&self) -> usize {
        self.num_position_embeddings.isqrt()
    }

    /// Values of one patch: channels x frames x rows x columns.
    pub fn patch_len(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        ensure_sizes(&[
            ("depth", self.depth),
            ("vision hidden_size", self.hidden_size),
            ("num_heads", self.num_heads),
            ("vision intermediate_size", self.intermediate_size),
            ("patch_size", self.patch_size),
            ("spatial_merge_size", self.spatial_merge_size),
            ("out_hidden_size", self.out_hidden_size),
            ("num_position_embeddings", self.num_position_embeddings),
        ])?;
        ensure(
            self.in_channels == 3 && self.temporal_patch_size == 2,
            || "only in_channels = 3 and temporal_patch_size = 2 are supported".into(),
        )?;
        let (patch, merge) = (self.patch_size, self.spatial_merge_size);
        ensure_product("values of a patch", &[6, patch, patch])?;
        ensure_product("patch_size x spatial_merge_size", &[patch, merge])?;
        ensure_product("merged width", &[self.hidden_size, merge, merge])?;
        ensure_product("width of q, k and v", &[self.hidden_size, 3])?;
        ensure_activation("vision", &self.hidden_act, "gelu_pytorch_tanh")?;
        ensure(
            self.hidden_size.is_multiple_of(self.num_heads)
                && (self.hidden_size / self.num_heads).is_multiple_of(4),
            || "the vision head dimension is not a multiple of 4".into(),
        )?;
        ensure(
            self.position_side().pow(2) == self.num_position_embeddings,
            || "num_position_embeddings is not a square number".into(),
        )?;
        let taps = &self.deepstack_visual_indexes;
        let ascend = taps.is_sorted_by(|a, b| a < b);
        ensure(ascend && taps.iter().all(|&tap| tap < self.depth), || {
            "deepstack_visual_indexes must ascend and be less than depth".into()
        })
    }
}
