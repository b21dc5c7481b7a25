//! A layer of the language model.

use candle_core::{Result, Tensor};

use super::linear::Linear;
use super::merged::MergedLinear;
use super::norm::RmsNorm;
use super::ops::TextOps;
use crate::config::TextConfig;
use crate::weights::{Weights, WeightsError};

/// A decoder layer: attention, then the MLP (transformers: `Qwen3VLTextDecoderLayer`).
#[derive(Debug)]
pub(crate) struct Layer {
    pub(super) input_norm: RmsNorm,
    pub(super) post_norm: RmsNorm,
    pub(super) attention: Attention,
    pub(super) mlp: Mlp,
}

/// Attention with norms of queries and keys (transformers: `Qwen3VLTextAttention`).
#[derive(Debug)]
pub(crate) struct Attention {
    /// Queries, keys and values.
    pub(crate) qkv: MergedLinear<3>,
    pub(crate) o: Linear,
    pub(crate) q_norm: RmsNorm,
    pub(crate) k_norm: RmsNorm,
}

/// The part of a layer that transforms each token by itself.
#[derive(Debug)]
pub(crate) enum Mlp {
    /// The gated MLP of a dense model (transformers: `Qwen3VLTextMLP`).
    Dense(DenseMlp),
}

/// `down(silu(gate(x)) * up(x))`.
#[derive(Debug)]
pub(crate) struct DenseMlp {
    gate_up: MergedLinear<2>,
    down: Linear,
}

impl Layer {
    /// Loads `{name}.*`.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        c: &TextConfig,
    ) -> std::result::Result<Self, WeightsError> {
        let norm = |part: &str| {
            let (name, eps) = (format!("{name}.{part}"), c.rms_norm_eps);
            RmsNorm::load(weights, &name, c.hidden_size, eps)
        };
        Ok(Self {
            attention: Attention::load(weights, &format!("{name}.self_attn"), c)?,
            input_norm: norm("input_layernorm")?,
            post_norm: norm("post_attention_layernorm")?,
            mlp: Mlp::Dense(DenseMlp::load(weights, &format!("{name}.mlp"), c)?),
        })
    }

    /// Its linear layers.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let Attention { qkv, o, .. } = &self.attention;
        let attention = qkv.parts().iter().chain([o]);
        let Mlp::Dense(mlp) = &self.mlp;
        attention.chain(mlp.gate_up.parts()).chain([&mlp.down])
    }
}

impl Attention {
    fn load(
        weights: &Weights,
        name: &str,
        c: &TextConfig,
    ) -> std::result::Result<Self, WeightsError> {
        let width = c.head_dim;
        let (q, kv) = (c.num_attention_heads * width, c.num_key_value_heads * width);
        let parts = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
        let norm =
            |part: &str| RmsNorm::load(weights, &format!("{name}.{part}"), width, c.rms_norm_eps);
        Ok(Self {
            qkv: MergedLinear::load(weights, name, parts, c.hidden_size)?,
            o: Linear::load_rounded(weights, &format!("{name}.o_proj"), (c.hidden_size, q))?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
        })
    }
}

impl Mlp {
    pub(super) fn forward(&self, ops: &mut impl TextOps, x: &Tensor) -> Result<Tensor> {
        let Self::Dense(mlp) = self;
        mlp.down.forward(&ops.silu_mul(&mlp.gate_up, x)?)
    }
}

impl DenseMlp {
    fn load(
        weights: &Weights,
        name: &str,
        c: &TextConfig,
    ) -> std::result::Result<Self, WeightsError> {
        let (d, inner) = (c.hidden_size, c.intermediate_size);
        let parts = [("gate_proj", inner), ("up_proj", inner)];
        Ok(Self {
            gate_up: MergedLinear::load(weights, name, parts, d)?,
            down: Linear::load_rounded(weights, &format!("{name}.down_proj"), (d, inner))?,
        })
    }
}
