//! The language model (transformers: `Qwen3VLTextModel` and the output head).

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::Workspace;
use super::activation::add;
use super::chunk::{Chunk, SequenceSlice, deepstack_rows};
use super::embedding::Embedding;
use super::heads::Heads;
use super::layer::Layer;
use super::linear::{Linear, is_packed};
use super::norm::RmsNorm;
use super::ops::{Rows, TextOps};
use super::platform::Platform;
use super::rope::TextRope;
use super::tensors::Tensors;
use crate::config::Config;
use crate::weights::{Weights, WeightsError};

/// The language model.
#[derive(Debug)]
pub struct TextModel {
    pub(crate) embeddings: Embedding,
    layers: Vec<Layer>,
    pub(crate) norm: RmsNorm,
    head: Linear,
    /// Whether the head has a matrix of its own although the configuration ties it to the
    /// embeddings.
    pub(crate) own_head: bool,
    pub(crate) rope: TextRope,
    pub(crate) heads: Heads,
    platform: Arc<dyn Platform>,
}

impl TextModel {
    /// Loads `model.language_model.*` and, if the head is not tied, `lm_head`.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn load(weights: &Weights, config: &Config) -> std::result::Result<Self, WeightsError> {
        let name = "model.language_model";
        let text = &config.text_config;
        let table = [text.vocab_size, text.hidden_size];
        let (embed, own) = (format!("{name}.embed_tokens"), "lm_head");
        let tied = tied_to(weights, config, &embed, own)?;
        let tensor = format!("{}.weight", tied.unwrap_or(&embed));
        // A tied head that is rounded is a matrix of its own, next to the table, from which only
        // rows are read: 0.3 GB more than sharing one would need (2B, q8-0), for embeddings as
        // exact as stored. It gets the type of the other layers, as mistral.rs's does; llama.cpp
        // gives a 4-bit model's 6 bits, which costs half as much again of what each token reads for
        // it.
        let plain = weights
            .quantize_at_load()
            .rounding(text.hidden_size)
            .is_none();
        let embeddings = match tied {
            Some(_) if plain => Embedding::load_tied(weights, &tensor, table)?,
            _ => Embedding::load(weights, &tensor, table)?,
        };
        let head = match tied {
            Some(_) if plain => embeddings.head(),
            Some(table_name) => Linear::load_rounded(weights, table_name, table.into())?,
            None => Linear::load_rounded(weights, own, table.into())?,
        };
        let layers = (0..text.num_hidden_layers)
            .map(|i| Layer::load(weights, &format!("{name}.layers.{i}"), i, text))
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
            own_head: config.tie_word_embeddings && tied.is_none(),
            rope: TextRope::new(&text.rope, text.head_dim),
            heads: Heads {
                count: text.num_attention_heads,
                kv: text.num_key_value_heads,
                width: text.head_dim,
            },
            platform: Arc::new(Tensors),
        })
    }

    /// Makes it run on `platform`.
    pub(super) fn run_on(&mut self, platform: &Arc<dyn Platform>) {
        self.platform = Arc::clone(platform);
    }

    /// Number of its layers.
    pub(super) fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Whether a pass waits for the host, which chooses experts.
    pub fn waits(&self) -> bool {
        self.layers.iter().any(Layer::waits)
    }

    /// The embedding table `[vocabulary, hidden]`.
    pub fn embeddings(&self) -> &Embedding {
        &self.embeddings
    }

    /// All linear layers, the head last.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let layers = self.layers.iter().flat_map(Layer::linears);
        layers.chain([&self.head])
    }

    /// Runs slices of any number of sequences through the layers in one pass, without padding, and
    /// appends each to its cache. Returns the logits of the wanted tokens `[outputs of all,
    /// vocabulary]`, in the type of arithmetic; none if none are wanted. A device may replay a
    /// recorded step, whose next replay overwrites the logits.
    ///
    /// # Errors
    ///
    /// If the device fails, the pass is interrupted or a slice wants more outputs than it has
    /// tokens; the caches keep their tokens then.
    pub fn forward(
        &self,
        slices: &mut [SequenceSlice<'_>],
        workspace: &mut Workspace,
    ) -> Result<Option<Tensor>> {
        reserve(slices)?;
        let logits = self.platform.logits(self, slices, workspace)?;
        workspace.check()?;
        for slice in slices {
            slice.state.advance(slice.chunk.len());
        }
        Ok(logits)
    }

    /// The forward pass: `batch` is the chunks of `ops`' slices, one behind the other; their cache
    /// blocks are reserved. Returns the logits of the wanted rows `[outputs, vocabulary]`.
    pub(crate) fn logits(&self, ops: &mut impl TextOps, batch: &Chunk) -> Result<Option<Tensor>> {
        let hidden = self.hidden(ops, batch)?;
        hidden.map(|hidden| self.head.forward(&hidden)).transpose()
    }

    /// The normalised hidden states of the wanted rows `[outputs, hidden]`.
    fn hidden(&self, ops: &mut impl TextOps, batch: &Chunk) -> Result<Option<Tensor>> {
        let mut x = ops.embed(&self.embeddings, batch)?;
        // The last layer's output that is not in x yet: the next norm adds it in the same kernel.
        let mut delta: Option<Tensor> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            ops.check()?;
            // After the keys and values of the last layer only the wanted rows are needed.
            let rows = match index + 1 == self.layers.len() {
                true => ops.last_rows(),
                false => Rows::All,
            };
            let mut normed;
            (x, normed) = ops.add_rms_norm(x, delta, &layer.input_norm)?;
            let Some(q) = ops.project(&layer.attention, &normed, index, rows)? else {
                return Ok(None);
            };
            let attended = ops.attend(&q, index, rows)?;
            let attended = layer.attention.o.forward(&attended)?;
            let taps = deepstack_rows(batch, index, &x)?;
            x = ops.select(x, rows)?;
            (x, normed) = ops.add_rms_norm(x, Some(attended), &layer.post_norm)?;
            let more = layer.mlp.forward(ops, &normed)?;
            delta = match taps {
                None => Some(more),
                Some(taps) => {
                    x = (add(more, &x)? + ops.select(taps, rows)?)?;
                    None
                }
            };
        }
        let (_, normed) = ops.add_rms_norm(x, delta, &self.norm)?;
        Ok(Some(normed))
    }
}

/// The tensor that is both the embeddings and the head; none if they differ (transformers:
/// `tie_weights`, which does not tie tensors of the file with different values).
fn tied_to<'a>(
    weights: &Weights,
    config: &Config,
    embed: &'a str,
    own: &'a str,
) -> std::result::Result<Option<&'a str>, WeightsError> {
    let tensor = |name: &str| format!("{name}.weight");
    let (embed_tensor, own_tensor) = (tensor(embed), tensor(own));
    if !config.tie_word_embeddings || is_packed(weights, own) {
        return Ok(None);
    }
    match (
        weights.contains(&embed_tensor),
        weights.contains(&own_tensor),
    ) {
        (_, false) => Ok(Some(embed)),
        (false, true) => Ok(Some(own)),
        (true, true) => {
            let text = &config.text_config;
            let shape = [text.vocab_size, text.hidden_size];
            let same = weights.same(&embed_tensor, &own_tensor, &shape)?;
            Ok(same.then_some(embed))
        }
    }
}

/// Reserves cache blocks for the slices' tokens.
fn reserve(slices: &mut [SequenceSlice<'_>]) -> Result<()> {
    for slice in slices {
        if slice.outputs > slice.chunk.len() {
            bail!("{} outputs of {} tokens", slice.outputs, slice.chunk.len());
        }
        slice.state.reserve(slice.chunk.len())?;
    }
    Ok(())
}
