//! The language model (transformers: `Qwen3VLTextModel` and the output head).

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::Workspace;
use super::activation::add;
use super::chunk::{Chunk, SequenceSlice, deepstack_rows};
use super::embedding::Embedding;
use super::heads::Heads;
use super::layer::Layer;
use super::linear::Linear;
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
    /// Whether the head is one of its own though the configuration ties it to the embeddings.
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
        let embeddings = Embedding::load(weights, &tensor, table)?;
        // A tied head that is rounded is a matrix of its own, next to the table, from which only rows
        // are read: 0.3 GB more than sharing one would need (2B, q8-0), for embeddings as exact as
        // stored. It gets the type of the other layers, as mistral.rs's does; llama.cpp gives a 4-bit
        // model's 6 bits, which costs half as much again of what each token reads for it.
        let plain = weights
            .quantize_at_load()
            .format(text.hidden_size)
            .is_none();
        let head = match tied {
            Some(_) if plain => embeddings.head(),
            Some(table_name) => Linear::load_rounded(weights, table_name, table.into())?,
            None => Linear::load_rounded(weights, own, table.into())?,
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

    /// From here on it runs there.
    pub(super) fn run_on(&mut self, platform: &Arc<dyn Platform>) {
        self.platform = Arc::clone(platform);
    }

    /// Its layers' number.
    pub(super) fn depth(&self) -> usize {
        self.layers.len()
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

    /// Runs chunks of any number of sequences through the layers in one pass, without padding, and
    /// appends each to its cache. Returns the scores of the whole vocabulary behind the tokens that the
    /// parts ask for `[outputs of all, vocabulary]`, in the type of arithmetic; none if they ask for none.
    /// A device may repeat a recorded step for it, and overwrite the scores in the next one.
    ///
    /// # Errors
    ///
    /// If the device fails, the pass is interrupted or a part asks for more than it has; the caches hold
    /// what they held before then.
    pub fn forward(
        &self,
        parts: &mut [SequenceSlice<'_>],
        workspace: &mut Workspace,
    ) -> Result<Option<Tensor>> {
        reserve(parts)?;
        let scores = self.platform.logits(self, parts, workspace)?;
        workspace.check()?;
        for part in parts {
            part.state.advance(part.chunk.len());
        }
        Ok(scores)
    }

    /// The forward pass: `batch` is what the parts of `ops` bring, one behind the other, into caches that have
    /// room. Gives the logits behind the rows that are asked for `[outputs, vocabulary]`.
    pub(crate) fn logits(&self, ops: &mut impl TextOps, batch: &Chunk) -> Result<Option<Tensor>> {
        let hidden = self.hidden(ops, batch)?;
        hidden.map(|hidden| self.head.forward(&hidden)).transpose()
    }

    /// The hidden states of those rows `[outputs, hidden]`, normalised.
    fn hidden(&self, ops: &mut impl TextOps, batch: &Chunk) -> Result<Option<Tensor>> {
        let mut x = ops.embed(&self.embeddings, batch)?;
        // What the last layer gave and x does not have yet: it is added where x is normalised next.
        let mut delta: Option<Tensor> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            ops.check()?;
            // Behind the keys and values of the last layer only the rows that are asked for are needed.
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

/// Which of the two tensors both the embeddings and the head are; none if they differ (transformers:
/// `tie_weights`, which does not tie where the file has both with different values).
fn tied_to<'a>(
    weights: &Weights,
    config: &Config,
    embed: &'a str,
    own: &'a str,
) -> std::result::Result<Option<&'a str>, WeightsError> {
    let tensor = |name: &str| format!("{name}.weight");
    let (embed_tensor, own_tensor) = (tensor(embed), tensor(own));
    if !config.tie_word_embeddings {
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

/// Makes room in the caches for what the parts bring.
fn reserve(parts: &mut [SequenceSlice<'_>]) -> Result<()> {
    for part in parts {
        if part.outputs > part.chunk.len() {
            bail!("{} outputs of {} tokens", part.outputs, part.chunk.len());
        }
        part.state.reserve(part.chunk.len())?;
    }
    Ok(())
}
