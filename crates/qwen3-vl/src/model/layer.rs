//! A layer of the language model.

use candle_core::{Result, Tensor};

use super::attention::{Span, attend_all};
use super::chunk::Part;
use super::linear::{Linear, Reused, add, silu_mul};
use super::norm::RmsNorm;
use super::rope::RopeTable;
use super::weights::{Weights, WeightsError, on_device};
use crate::config::TextConfig;

/// Tokens see what is before them, then each is transformed by itself (transformers:
/// `Qwen3VLTextDecoderLayer`).
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) input_norm: RmsNorm,
    pub(crate) post_norm: RmsNorm,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    /// Queries, keys and values in one, on a GPU.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) qkv: Option<Linear>,
    pub(crate) o: Linear,
    pub(crate) q_norm: RmsNorm,
    pub(crate) k_norm: RmsNorm,
    pub(crate) mlp: Mlp,
    head_dim: usize,
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
        let head_dim = c.head_dim;
        let (q_width, kv) = (
            c.num_attention_heads * head_dim,
            c.num_key_value_heads * head_dim,
        );
        let linear = |part: &str, shape| {
            Linear::load_quantized(weights, &format!("{name}.self_attn.{part}_proj"), shape)
        };
        let norm = |part: &str, width| {
            RmsNorm::load(weights, &format!("{name}.{part}"), width, c.rms_norm_eps)
        };
        let (mut q, mut k, mut v) = (
            linear("q", (q_width, c.hidden_size))?,
            linear("k", (kv, c.hidden_size))?,
            linear("v", (kv, c.hidden_size))?,
        );
        let qkv = on_device(name, Linear::join(&mut [&mut q, &mut k, &mut v]))?;
        Ok(Self {
            input_norm: norm("input_layernorm", c.hidden_size)?,
            post_norm: norm("post_attention_layernorm", c.hidden_size)?,
            q,
            k,
            v,
            qkv,
            o: linear("o", (c.hidden_size, q_width))?,
            q_norm: norm("self_attn.q_norm", head_dim)?,
            k_norm: norm("self_attn.k_norm", head_dim)?,
            mlp: Mlp::load(weights, &format!("{name}.mlp"), c)?,
            head_dim,
        })
    }

    /// The layer for all tokens, or, with `only`, for those rows of them, which are what the parts ask
    /// for. Keys and values of all go into the caches.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        index: usize,
        rope: &RopeTable,
        parts: &mut [Part<'_>],
        only: Option<&Tensor>,
        reused: &mut (Reused, Reused),
    ) -> Result<Tensor> {
        let normed = self.input_norm.forward(x)?;
        self.write(&normed, index, rope, parts)?;
        let x = select(x, only)?;
        let q = self.q.forward(&select(&normed, only)?)?;
        let q = self.q_norm.forward(&self.heads(q)?)?;
        let q = match only {
            Some(rows) => rope.select(rows)?.rotate(&q)?,
            None => rope.rotate(&q)?,
        };
        let spans = parts.iter().map(|part| Span {
            queries: only.map_or(part.chunk.len(), |_| part.outputs),
            ..part.span(index)
        });
        let seen = attend_all(&q, &spans.collect::<Vec<_>>())?;
        let x = add(self.o.forward(&seen)?, &x)?;
        add(self.mlp.forward(&self.post_norm.forward(&x)?, reused)?, &x)
    }

    /// Appends keys and values to the caches.
    pub(super) fn write(
        &self,
        x: &Tensor,
        index: usize,
        rope: &RopeTable,
        parts: &mut [Part<'_>],
    ) -> Result<()> {
        let k = self.k_norm.forward(&self.heads(self.k.forward(x)?)?)?;
        let (k, v) = (rope.rotate(&k)?, self.heads(self.v.forward(x)?)?);
        let mut first = 0;
        for Part { chunk, kv, .. } in parts {
            let rows = |all: &Tensor| all.narrow(0, first, chunk.len());
            kv.write(index, &rows(&k)?, &rows(&v)?)?;
            first += chunk.len();
        }
        Ok(())
    }

    /// `[tokens, heads * head_dim]` by head.
    fn heads(&self, x: Tensor) -> Result<Tensor> {
        x.reshape((x.dim(0)?, (), self.head_dim))
    }
}

/// Those rows, or all.
pub(super) fn select(x: &Tensor, only: Option<&Tensor>) -> Result<Tensor> {
    match only {
        Some(rows) => x.index_select(rows, 0),
        None => Ok(x.clone()),
    }
}

/// The gated MLP of a dense model; a mixture of experts will be another kind.
#[derive(Debug)]
pub(crate) struct Mlp {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    /// Both in one, on a GPU.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) gate_up: Option<Linear>,
    pub(crate) down: Linear,
}

impl Mlp {
    fn load(
        weights: &Weights,
        name: &str,
        c: &TextConfig,
    ) -> std::result::Result<Self, WeightsError> {
        let linear = |part: &str, shape| {
            Linear::load_quantized(weights, &format!("{name}.{part}_proj"), shape)
        };
        let (d, inner) = (c.hidden_size, c.intermediate_size);
        let (mut gate, mut up) = (linear("gate", (inner, d))?, linear("up", (inner, d))?);
        let gate_up = on_device(name, Linear::join(&mut [&mut gate, &mut up]))?;
        Ok(Self {
            gate,
            up,
            gate_up,
            down: linear("down", (d, inner))?,
        })
    }

    fn forward(&self, x: &Tensor, (gate, up): &mut (Reused, Reused)) -> Result<Tensor> {
        let gate = self.gate.forward_into(x, gate)?;
        let up = self.up.forward_into(x, up)?;
        self.down.forward(&silu_mul(gate, &up)?)
    }
}
