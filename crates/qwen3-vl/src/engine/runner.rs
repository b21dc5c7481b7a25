//! Does what the scheduler says: the only place where sequences meet the model.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::flight::Flight;
use super::sequence::Sequence;
use super::vision_cache::{VisionCache, same};
use crate::config::{GenerationConfig, PreprocessorConfig};
use crate::cpu::pool::Pool;
use crate::frames::VisionInput;
use crate::load::brief;
use crate::model::{Geometry, Grid, Model, Part, Workspace};
use crate::tokenizer::{Tokenizer, TokenizerError};

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
    /// The KV cache is full.
    #[error(
        "the KV cache is full: {needed} tokens are needed and {limit} fit, less what other windows have; use fewer frames, fewer pixels or more kv-memory"
    )]
    Memory {
        /// Tokens of the window.
        needed: usize,
        /// Tokens that fit into an empty cache.
        limit: usize,
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
    /// Blocks that the KV cache may have.
    pub kv_blocks: usize,
}

/// Runs a model, one step at a time.
pub struct Runner {
    /// What it runs.
    pub parts: RunnerParts,
    pub(super) geometries: HashMap<Grid, Geometry>,
    pub(super) pool: Pool,
    pub(super) workspace: Workspace,
    pub(super) flights: VecDeque<Flight>,
    pub(super) recent: VisionCache,
}

impl Runner {
    /// A runner that has seen no grid yet.
    pub fn new(parts: RunnerParts) -> Self {
        let on_cpu = parts.model.kv.device().is_cpu();
        Self {
            pool: if on_cpu { Pool::new() } else { Pool::none() },
            parts,
            geometries: HashMap::new(),
            workspace: Workspace::default(),
            flights: VecDeque::new(),
            recent: VisionCache::default(),
        }
    }

    /// Begins to encode waiting inputs of the sequences, in their order, as many as go together: those
    /// that look like the first. An input that several of them have is encoded once. What was begun is
    /// there when it [lands](Runner::land).
    ///
    /// # Errors
    ///
    /// See [`StepError`].
    pub fn encode_next(&mut self, sequences: &mut [&mut Sequence]) -> Result<(), StepError> {
        let mut batch: Vec<VisionInput> = Vec::new();
        for input in sequences.iter().flat_map(|sequence| sequence.inputs()) {
            let fits = batch
                .first()
                .is_none_or(|first| Self::together(first, input));
            if fits && !batch.iter().any(|other| same(other, input)) {
                if batch.len() == self.most_together(input) {
                    break;
                }
                batch.push(input.clone());
            }
        }
        let flight = self.begin(&batch)?;
        self.flights.push_back(flight);
        for sequence in sequences {
            sequence.depart(&batch);
        }
        Ok(())
    }

    /// Makes the sequence ready for the next step: gives it the tokens of inputs that another one
    /// had, and lays out what is known of its prompt.
    ///
    /// # Errors
    ///
    /// See [`StepError`].
    pub fn advance(&self, sequence: &mut Sequence) -> Result<(), StepError> {
        self.supply(sequence);
        sequence.advance(&self.parts.tokenizer, &self.parts.model.config)?;
        let limit = self.context();
        match sequence.tokens() > limit {
            true => Err(StepError::Context { limit }),
            false => Ok(()),
        }
    }

    /// Gives the sequence the tokens of its inputs that are known, or will be when a flight lands.
    pub fn supply(&self, sequence: &mut Sequence) {
        sequence.encoded(|input| self.recent.find(input).cloned());
        for flight in &self.flights {
            sequence.depart(&flight.inputs);
        }
    }

    pub(super) fn context(&self) -> usize {
        self.parts.model.config.text_config.max_position_embeddings
    }

    /// Runs so many pending tokens of each sequence through the language model in one pass. Those
    /// whose prompt or last token is in the cache then sample one.
    ///
    /// # Errors
    ///
    /// See [`StepError`].
    pub fn forward(&mut self, shares: Vec<(&mut Sequence, usize)>) -> Result<(), StepError> {
        let start = Instant::now();
        let taken = shares.into_iter().map(|(sequence, tokens)| {
            let chunk = sequence.take(tokens, start)?;
            Ok((sequence, chunk))
        });
        let mut taken = taken.collect::<Result<Vec<_>, candle_core::Error>>()?;
        let mut parts: Vec<Part<'_>> = taken
            .iter_mut()
            .map(|(sequence, chunk)| Part {
                outputs: sequence.samples().into(),
                chunk,
                kv: &mut sequence.kv,
            })
            .collect();
        let (text, workspace) = (&self.parts.model.text, &mut self.workspace);
        let scores = self.pool.run(|| text.scores(&mut parts, workspace))?;
        let time = start.elapsed();
        let mut sampling = Vec::new();
        for (sequence, _) in taken {
            sequence.passed(time);
            if sequence.samples() {
                sampling.push(sequence);
            }
        }
        match scores {
            Some(scores) => self.sample(&scores, sampling),
            None => Ok(()),
        }
    }
}
