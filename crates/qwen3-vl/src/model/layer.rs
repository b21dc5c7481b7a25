//! A layer of the language model.

use candle_core::{Result, Tensor};

use super::experts::SparseMoeBlock;
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
    Dense(GatedMlp),
    /// A mixture of experts (transformers: `Qwen3VLMoeTextSparseMoeBlock`).
    Experts(SparseMoeBlock),
}

/// `down(silu(gate(x)) * up(x))`: all of a dense layer's MLP, or one expert.
#[derive(Debug)]
pub(crate) struct GatedMlp {
    gate_up: MergedLinear<2>,
    down: Linear,
}

impl Layer {
    /// Loads `{name}.*`, the layer with this index.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        index: usize,
        c: &TextConfig,
    ) -> std::result::Result<Self, WeightsError> {
        let mlp = format!("{name}.mlp");
        let norm = |part: &str| {
            let (name, eps) = (format!("{name}.{part}"), c.rms_norm_eps);
            RmsNorm::load(weights, &name, c.hidden_size, eps)
        };
        Ok(Self {
            attention: Attention::load(weights, &format!("{name}.self_attn"), c)?,
            input_norm: norm("input_layernorm")?,
            post_norm: norm("post_attention_layernorm")?,
            mlp: match c.is_sparse(index) {
                true => Mlp::Experts(SparseMoeBlock::load(weights, &mlp, c)?),
                false => Mlp::Dense(GatedMlp::load(
                    weights,
                    &mlp,
                    (c.hidden_size, c.intermediate_size),
                )?),
            },
        })
    }

    /// Its linear layers, without the router of experts.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let Attention { qkv, o, .. } = &self.attention;
        let attention = qkv.parts().iter().chain([o]);
        let (dense, sparse) = match &self.mlp {
            Mlp::Dense(mlp) => (Some(mlp.linears()), None),
            Mlp::Experts(block) => (None, Some(block.linears())),
        };
        let mlp = dense.into_iter().flatten();
        attention.chain(mlp).chain(sparse.into_iter().flatten())
    }

    /// Whether a pass waits for the host, which chooses experts.
    pub(super) fn waits(&self) -> bool {
        match &self.mlp {
            Mlp::Dense(_) => false,
            Mlp::Experts(block) => block.on_device().is_none(),
        }
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
        match self {
            Self::Dense(mlp) => mlp.down.forward(&ops.silu_mul(&mlp.gate_up, x)?),
            Self::Experts(block) => ops.experts(block, x),
        }
    }
}

impl GatedMlp {
    /// Loads `{name}.gate_proj`, `up_proj` and `down_proj` of these widths: of the residual stream
    /// and in between.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        (outer, inner): (usize, usize),
    ) -> std::result::Result<Self, WeightsError> {
        let parts = [("gate_proj", inner), ("up_proj", inner)];
        let down = format!("{name}.down_proj");
        Ok(Self {
            gate_up: MergedLinear::load(weights, name, parts, outer)?,
            down: Linear::load_rounded(weights, &down, (outer, inner))?,
        })
    }

    /// The layers of all as two, whose outputs are those of one below those of the other: gates
    /// with ups, and downs. Theirs become views. None if they are not stored alike.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub(super) fn stack(all: &mut [Self]) -> Result<Option<[Linear; 2]>> {
        let mut gate_ups: Vec<_> = all.iter_mut().map(|mlp| &mut mlp.gate_up).collect();
        let Some(gate_up) = MergedLinear::stack(&mut gate_ups)? else {
            return Ok(None);
        };
        let mut downs: Vec<Linear> = all.iter().map(|mlp| mlp.down.clone()).collect();
        let Some(down) = Linear::join(&mut downs)? else {
            return Ok(None);
        };
        for (mlp, down) in std::iter::zip(all, downs) {
            mlp.down = down;
        }
        Ok(Some([gate_up, down]))
    }

    /// Its linear layers.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate_up.parts().iter().chain([&self.down])
    }

    /// What it makes of `x` `[rows, hidden]`; `silu_mul` gives `silu(gate) * up`.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the device fails.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        silu_mul: impl Fn(Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let [gate, up] = self.gate_up.forward(x)?;
        self.down.forward(&silu_mul(gate, &up)?)
    }
}
