//! Does what the scheduler says: the only place where sequences meet the model.

use std::collections::HashMap;
use std::time::Instant;

use candle_core::Tensor;

use super::sequence::Sequence;
use crate::config::{GenerationConfig, PreprocessorConfig};
use crate::load::brief;
use crate::model::{Chunk, Geometry, Grid, Model};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Tokens that go through the language model at once, at most: bounds the memory of a step.
const PREFILL_CHUNK: usize = 512;

/// Why a step failed. The sequence is lost, the engine is not.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The device.
    #[error("the device failed: {}", brief(.0))]
    Device(#[from] candle_core::Error),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Frames that do not fit the model.
    #[error(
        "a frame of {width}x{height} with {bytes} bytes does not fit: sides must be multiples of {factor}"
    )]
    Frame {
        /// Width.
        width: u32,
        /// Height.
        height: u32,
        /// Bytes of its pixels.
        bytes: usize,
        /// What sides must be multiples of.
        factor: u32,
    },
    /// The context is full.
    #[error(
        "the window needs more than the model's {limit} tokens of context: use fewer frames, fewer pixels or a shorter window"
    )]
    Context {
        /// Tokens that fit.
        limit: usize,
    },
}

/// A model with what it needs to read and write.
pub struct RunnerParts {
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Ids that end an answer.
    pub stop: Vec<u32>,
    /// How its authors decode.
    pub generation: GenerationConfig,
    /// Normalisation and pixel budget of videos.
    pub video: PreprocessorConfig,
    /// Normalisation and pixel budget of images.
    pub image: PreprocessorConfig,
}

/// Runs a model, one step at a time.
pub struct Runner {
    /// What it runs.
    pub parts: RunnerParts,
    pub(super) geometries: HashMap<Grid, Geometry>,
}

impl Runner {
    /// A runner that has seen no grid yet.
    pub fn new(parts: RunnerParts) -> Self {
        Self {
            parts,
            geometries: HashMap::new(),
        }
    }

    /// Encodes the sequence's next vision inputs. Their tokens are prefilled at once, unless more
    /// inputs or the prompt's tail are there already: then they go together, because a pass over
    /// the weights costs the same for few tokens as for many.
    ///
    /// # Errors
    ///
    /// See [`StepError`].
    pub fn input(&mut self, sequence: &mut Sequence) -> Result<(), StepError> {
        let batch = self.batch(sequence.waiting.make_contiguous());
        let inputs: Vec<_> = sequence.waiting.drain(..batch).collect();
        let start = Instant::now();
        let encoded = self.encode(&inputs)?;
        sequence.vision += start.elapsed();
        let parts = &self.parts;
        for input in encoded {
            let chunk = sequence.input_chunk(input, &parts.tokenizer, &parts.model.config)?;
            sequence.pending.append(chunk);
        }
        let more = !sequence.waiting.is_empty() || sequence.state().closed.is_some();
        if !more || sequence.pending.len() >= PREFILL_CHUNK {
            self.prefill(sequence)?;
        }
        Ok(())
    }

    /// Prefills the prompt's tail and samples the first token. Returns the chunk to decode next.
    ///
    /// # Errors
    ///
    /// See [`StepError`].
    pub fn tail(&mut self, sequence: &mut Sequence) -> Result<Option<Chunk>, StepError> {
        let chunk = sequence.tail_chunk(&self.parts.tokenizer, Instant::now())?;
        sequence.pending.append(chunk);
        match self.prefill(sequence)? {
            Some(hidden) => self.sample(sequence, &hidden),
            None => Ok(None),
        }
    }

    /// Runs the last sampled token and samples the next.
    ///
    /// # Errors
    ///
    /// See [`StepError`].
    pub fn decode(
        &mut self,
        sequence: &mut Sequence,
        chunk: &Chunk,
    ) -> Result<Option<Chunk>, StepError> {
        let hidden = self.parts.model.text.forward(chunk, &mut sequence.kv)?;
        self.sample(sequence, &hidden)
    }

    /// Runs what is pending. Returns the last hidden states.
    fn prefill(&self, sequence: &mut Sequence) -> Result<Option<Tensor>, StepError> {
        let limit = self.parts.model.config.text_config.max_position_embeddings;
        if sequence.tokens() >= limit {
            return Err(StepError::Context { limit });
        }
        let start = Instant::now();
        let mut hidden = None;
        for part in std::mem::take(&mut sequence.pending).split(PREFILL_CHUNK)? {
            hidden = Some(self.parts.model.text.forward(&part, &mut sequence.kv)?);
        }
        sequence.prefill += start.elapsed();
        Ok(hidden)
    }

    fn sample(&self, sequence: &mut Sequence, hidden: &Tensor) -> Result<Option<Chunk>, StepError> {
        let last = hidden.narrow(0, hidden.dim(0)? - 1, 1)?;
        let mut logits = self
            .parts
            .model
            .text
            .logits(&last)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let context = self.parts.model.config.text_config.max_position_embeddings;
        Ok(sequence.sample(
            &mut logits,
            context,
            &self.parts.stop,
            &self.parts.tokenizer,
        )?)
    }
}
