//! The language model (transformers: `Qwen3VLTextModel` and the output head).

use candle_core::{Result, Tensor, bail};

use super::Workspace;
use super::chunk::{Chunk, Part, deepstack_rows, overlay};
use super::heads::Heads;
use super::layer::{Layer, Mlp, select};
use super::linear::Linear;
use super::norm::RmsNorm;
use super::rope::TextRope;
use super::weights::{Weights, WeightsError};
use crate::config::Config;

/// The language model.
#[derive(Debug)]
pub struct TextModel {
    pub(crate) embeddings: Tensor,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: RmsNorm,
    pub(crate) head: Linear,
    /// Whether the head is one of its own though the configuration ties it to the embeddings.
    pub(crate) own_head: bool,
    pub(crate) rope: TextRope,
    pub(crate) heads: Heads,
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
        let embeddings = weights.matrix(&format!("{}.weight", tied.unwrap_or(&embed)), &table)?;
        // A tied head that is rounded is a matrix of its own, next to the table, from which only rows
        // are read: 0.3 GB more than sharing one would need (2B, q8-0), for embeddings as exact as
        // stored. It gets the type of the other layers, as mistral.rs's does; llama.cpp gives a 4-bit
        // model's 6 bits, which costs half as much again of what each token reads for it.
        let plain = weights.quantization().format(text.hidden_size).is_none();
        let head = match tied {
            Some(_) if plain => Linear::new(embeddings.clone(), None),
            Some(table_name) => Linear::load_quantized(weights, table_name, table.into())?,
            None => Linear::load_quantized(weights, own, table.into())?,
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
        })
    }

    /// The embedding table `[vocabulary, hidden]`.
    pub fn embeddings(&self) -> &Tensor {
        &self.embeddings
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
    /// If the device fails, the pass is interrupted or a part asks for more than it has; the caches hold
    /// what they held before then.
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
                let scores = any.then(|| self.head.forward(&hidden)).transpose()?;
                workspace.check()?;
                scores
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
        for (index, layer) in self.layers.iter().enumerate() {
            workspace.check()?;
            let last = index + 1 == self.layers.len();
            if last && outputs.is_empty() {
                layer.write(&layer.input_norm.forward(&x)?, index, &rope, parts)?;
                break;
            }
            let taps = deepstack_rows(&all, index, &x)?;
            let only = asked.as_ref().filter(|_| last);
            x = layer.forward(&x, index, &rope, parts, only, &mut workspace.text)?;
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
fn reserve(parts: &mut [Part<'_>]) -> Result<()> {
    for part in parts {
        if part.outputs > part.chunk.len() {
            bail!("{} outputs of {} tokens", part.outputs, part.chunk.len());
        }
        part.kv.reserve(part.chunk.len())?;
    }
    Ok(())
}
