//! The language model (transformers: `Qwen3VLTextModel` and the output head).

use candle_core::{Result, Tensor, bail};

use super::Workspace;
use super::attention::{Span, attend_all};
use super::heads::Heads;
use super::kv_cache::KvCache;
use super::linear::{Linear, Reused, add, silu_mul};
use super::norm::RmsNorm;
use super::rope::{RopeTable, TextRope};
use super::vision::VisionTokens;
use super::weights::{Weights, WeightsError, on_device};
use crate::config::{Config, Rope, TextConfig};
use crate::prompt::Position;

/// The language model.
#[derive(Debug)]
pub struct TextModel {
    pub(crate) embeddings: Tensor,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: RmsNorm,
    pub(crate) head: Linear,
    pub(crate) rope: TextRope,
    pub(crate) heads: Heads,
}

/// Consecutive tokens of one sequence on their way into its cache.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// Ids; what stands at the place of a vision token does not matter.
    pub ids: Vec<u32>,
    /// Position of each token.
    pub positions: Vec<Position>,
    /// Runs of vision tokens: index of the first, and the tokens; in order.
    pub vision: Vec<(usize, VisionTokens)>,
}

impl Chunk {
    /// Tokens in the chunk.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the chunk holds nothing.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Adds the tokens that follow.
    pub fn append(&mut self, next: Self) {
        let shift = self.len();
        let vision = next.vision.into_iter();
        self.vision
            .extend(vision.map(|(first, tokens)| (first + shift, tokens)));
        self.ids.extend(next.ids);
        self.positions.extend(next.positions);
    }

    /// Takes the first tokens, at most `count`, out of the chunk.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn take(&mut self, count: usize) -> Result<Self> {
        if count >= self.len() {
            return Ok(std::mem::take(self));
        }
        let rest = self.slice(count, self.len())?;
        let first = self.slice(0, count)?;
        *self = rest;
        Ok(first)
    }

    /// Cuts the chunk into pieces of at most `size` tokens, vision tokens and their DeepStack rows
    /// with it.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn split(&self, size: usize) -> Result<Vec<Self>> {
        let size = size.max(1);
        let starts = (0..self.len()).step_by(size);
        starts
            .map(|start| self.slice(start, (start + size).min(self.len())))
            .collect()
    }

    fn slice(&self, start: usize, end: usize) -> Result<Self> {
        let mut vision = Vec::new();
        for (first, tokens) in &self.vision {
            let count = tokens.embeddings.dim(0)?;
            let (from, to) = (start.max(*first), end.min(first + count));
            if from < to {
                let rows = |t: &Tensor| t.narrow(0, from - first, to - from);
                vision.push((
                    from - start,
                    VisionTokens {
                        embeddings: rows(&tokens.embeddings)?,
                        deepstack: tokens.deepstack.iter().map(rows).collect::<Result<_>>()?,
                    },
                ));
            }
        }
        Ok(Self {
            ids: self.ids[start..end].to_vec(),
            positions: self.positions[start..end].to_vec(),
            vision,
        })
    }
}

/// What one sequence has in a pass.
pub struct Part<'a> {
    /// Its next tokens.
    pub chunk: &'a Chunk,
    /// Its cache.
    pub kv: &'a mut KvCache,
    /// How many hidden states of the chunk are asked for: those of its last tokens.
    pub outputs: usize,
}

impl Part<'_> {
    /// What its tokens see in a layer.
    pub(crate) fn span(&self, layer: usize) -> Span<'_> {
        Span {
            queries: self.chunk.len(),
            keys: self.kv.len() + self.chunk.len(),
            blocks: self.kv.layer(layer),
        }
    }
}

impl TextModel {
    /// Loads `model.language_model.*` and, if the head is not tied, `lm_head`.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn load(
        weights: &Weights,
        config: &Config,
        rope: &Rope,
    ) -> std::result::Result<Self, WeightsError> {
        let name = "model.language_model";
        let text = &config.text_config;
        let table = [text.vocab_size, text.hidden_size];
        let embeddings = weights.matrix(&format!("{name}.embed_tokens.weight"), &table)?;
        // A tied head that is rounded is a matrix of its own, next to the table, from which only rows
        // are read: 0.3 GB more than sharing one would need (2B, q8-0), for embeddings as exact as
        // stored. It gets the type of the other layers, as mistral.rs's does; llama.cpp gives a 4-bit
        // model's 6 bits, which costs half as much again of what each token reads for it.
        let plain = weights.quantization().format(text.hidden_size).is_none();
        let head = match config.tie_word_embeddings {
            true if plain => Linear::new(embeddings.clone(), None),
            true => Linear::load_quantized(weights, &format!("{name}.embed_tokens"), table.into())?,
            false => Linear::load_quantized(weights, "lm_head", table.into())?,
        };
        let layers = (0..text.num_hidden_layers)
            .map(|i| Layer::load(weights, &format!("{name}.layers.{i}"), text))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            embeddings,
            layers,
            norm: RmsNorm::load(
                weights,
                &format!("{name}.norm"),
                text.hidden_size,
                text.rms_norm_eps,
            )?,
            head,
            rope: TextRope::new(rope, text.head_dim()),
            heads: Heads {
                count: text.num_attention_heads,
                kv: text.num_key_value_heads,
                width: text.head_dim(),
            },
        })
    }

    /// All linear layers, the head last.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let layers = self.layers.iter().flat_map(|layer| {
            let Mlp { gate, up, down, .. } = &layer.mlp;
            [&layer.q, &layer.k, &layer.v, &layer.o, gate, up, down]
        });
        layers.chain([&self.head])
    }

    /// Runs chunks of any number of sequences through the layers in one pass, without padding, and
    /// appends each to its cache. Returns the scores of the whole vocabulary behind the tokens that the
    /// parts ask for `[outputs of all, vocabulary]`, in the type of arithmetic; none if they ask for none.
    /// A device may repeat a recorded step for it, and overwrite the scores in the next one.
    ///
    /// # Errors
    ///
    /// If the device fails or a part asks for more than it has; the caches hold what they held before
    /// then.
    pub fn scores(
        &self,
        parts: &mut [Part<'_>],
        workspace: &mut Workspace,
    ) -> Result<Option<Tensor>> {
        reserve(parts)?;
        let scores = match self.repeat(parts, workspace)? {
            Some(scores) => Some(scores),
            None => {
                let hidden = self.hidden(parts, workspace)?;
                let any = hidden.dim(0)? > 0;
                any.then(|| self.head.forward(&hidden)).transpose()?
            }
        };
        for part in parts {
            part.kv.advance(part.chunk.len());
        }
        Ok(scores)
    }

    #[cfg(feature = "cuda")]
    fn repeat(&self, parts: &[Part<'_>], workspace: &mut Workspace) -> Result<Option<Tensor>> {
        match crate::cuda::decoder::can_run(self) {
            true => crate::cuda::graph::decode(self, parts, &mut workspace.cuda),
            false => Ok(None),
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    fn repeat(&self, _: &[Part<'_>], _: &mut Workspace) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// The hidden states that the parts ask for, whose caches have room and take the rest.
    fn hidden(&self, parts: &mut [Part<'_>], workspace: &mut Workspace) -> Result<Tensor> {
        let (mut all, mut outputs) = (Chunk::default(), Vec::new());
        for part in &*parts {
            all.append(part.chunk.clone());
            outputs.extend((all.len() - part.outputs) as u32..all.len() as u32);
        }
        #[cfg(feature = "cuda")]
        if crate::cuda::decoder::can_run(self) {
            return crate::cuda::decoder::forward(self, parts, &all, &mut workspace.cuda);
        }
        let mut x = self.embed(&all)?;
        let rope = self.rope.table(&all.positions, x.dtype(), x.device())?;
        // Behind the keys and values of the last layer nothing is needed but what is asked for.
        let asked = match outputs.len() {
            0 => None,
            some if some == all.len() => None,
            _ => Some(Tensor::new(outputs.as_slice(), x.device())?),
        };
        let reused = &mut workspace.text;
        for (index, layer) in self.layers.iter().enumerate() {
            let last = index + 1 == self.layers.len();
            if last && outputs.is_empty() {
                layer.write(&layer.input_norm.forward(&x)?, index, &rope, parts)?;
                break;
            }
            let taps = deepstack_rows(&all, index, &x)?;
            let only = asked.as_ref().filter(|_| last);
            x = layer.forward(&x, index, &rope, parts, only, reused)?;
            if let Some(taps) = taps {
                x = (x + select(&taps, only)?)?;
            }
        }
        match outputs.is_empty() {
            // A view: devices do not make or compute tensors of nothing.
            true => x.narrow(0, 0, 0),
            false => self.norm.forward(&x),
        }
    }

    fn embed(&self, chunk: &Chunk) -> Result<Tensor> {
        let ids = Tensor::new(chunk.ids.as_slice(), self.embeddings.device())?;
        let text = self
            .embeddings
            .index_select(&ids, 0)?
            .to_dtype(self.norm.dtype())?;
        overlay(
            &text,
            chunk
                .vision
                .iter()
                .map(|(first, v)| (*first, &v.embeddings)),
        )
    }
}

/// Makes room in the caches for what the parts bring.
fn reserve(parts: &mut [Part<'_>]) -> Result<()> {
    for part in parts {
        if part.outputs > part.chunk.len() {
            bail!("{} outputs of {} tokens", part.outputs, part.chunk.len());
        }
        part.kv.reserve(part.chunk.len())?;
    }
    Ok(())
}

/// What DeepStack adds behind `layer`: zeros but for the vision tokens; none if there is nothing.
pub(crate) fn deepstack_rows(chunk: &Chunk, layer: usize, like: &Tensor) -> Result<Option<Tensor>> {
    let taps: Vec<_> = chunk
        .vision
        .iter()
        .filter_map(|(first, v)| Some((*first, v.deepstack.get(layer)?)))
        .collect();
    if taps.is_empty() {
        return Ok(None);
    }
    overlay(&like.zeros_like()?, taps.into_iter()).map(Some)
}

/// `base` `[tokens, hidden]` with runs of rows replaced.
pub(crate) fn overlay<'a>(
    base: &Tensor,
    runs: impl Iterator<Item = (usize, &'a Tensor)>,
) -> Result<Tensor> {
    let mut parts = Vec::new();
    let mut next = 0;
    for (first, rows) in runs {
        if first > next {
            parts.push(base.narrow(0, next, first - next)?);
        }
        parts.push(rows.clone());
        next = first + rows.dim(0)?;
    }
    if parts.is_empty() {
        return Ok(base.clone());
    }
    let tokens = base.dim(0)?;
    if tokens > next {
        parts.push(base.narrow(0, next, tokens - next)?);
    }
    Tensor::cat(&parts, 0)
}

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
    fn load(
        weights: &Weights,
        name: &str,
        c: &TextConfig,
    ) -> std::result::Result<Self, WeightsError> {
        let head_dim = c.head_dim();
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
    fn forward(
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
    fn write(
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
fn select(x: &Tensor, only: Option<&Tensor>) -> Result<Tensor> {
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
