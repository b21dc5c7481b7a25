//! Runs the scheduler's steps: the only place where sequences meet the model.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::config::EngineConfig;
use super::interrupt::Interrupt;
use super::sequence::Sequence;
use super::vision_batch::VisionBatch;
use super::vision_cache::{VisionCache, same};
use crate::config::{GenerationConfig, PreprocessorConfig};
use crate::device::free_memory;
use crate::model::kv_cache::BLOCK_TOKENS;
use crate::model::{Executor, Model, SequenceSlice};
use crate::quote::brief;
use crate::tokenizer::{Tokenizer, TokenizerError};
use qwen3_vl_core::frames::{VisionInput, timestamp_text};
use qwen3_vl_core::model::{LimitError, Limits};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The step was interrupted because its windows have no waiters left.
    #[error("interrupted")]
    Interrupted,
    /// The device failed.
    #[error("the device failed: {}", brief(.0))]
    Device(#[from] candle_core::Error),
    /// The logits are NaN.
    #[error(
        "the model computes no numbers (NaN): its weights are damaged, or too large for dtype f16"
    )]
    NoNumbers,
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A frame that does not fit the model.
    #[error(
        "a frame of {width}x{height} with {bytes} bytes does not fit: sides must be multiples of \
         {factor}"
    )]
    Frame {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes of its pixels.
        bytes: usize,
        /// Patch size times merge size: sides must be multiples of it.
        factor: u32,
    },
    /// The window exceeds a limit and can never be answered.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The KV cache is full.
    #[error(
        "the KV cache is full: {needed} tokens are needed and {limit} fit, less what other windows \
         have; use fewer frames, fewer pixels or more kv-memory"
    )]
    Memory {
        /// Tokens of the window.
        needed: usize,
        /// Tokens that an empty cache holds.
        limit: usize,
    },
}

/// A model with its tokenizer, configurations and cache size.
pub struct RunnerParts {
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Ids that end an answer.
    pub stop: Vec<u32>,
    /// The checkpoint's generation defaults.
    pub generation: GenerationConfig,
    /// Normalisation and pixel budget of videos.
    pub video: PreprocessorConfig,
    /// Normalisation and pixel budget of images.
    pub image: PreprocessorConfig,
    /// Blocks of the KV cache.
    pub kv_blocks: usize,
}

/// Runs a model, one step at a time.
pub struct Runner {
    /// What it runs.
    pub parts: RunnerParts,
    limits: Limits,
    pub(super) config: EngineConfig,
    pub(super) interrupt: Arc<Interrupt>,
    pub(super) executor: Executor,
    pub(super) encoding: VecDeque<VisionBatch>,
    pub(super) recent: VisionCache,
}

impl Runner {
    /// A runner with an empty vision cache.
    pub fn new(parts: RunnerParts) -> Self {
        let config = EngineConfig::of(parts.model.kv.device());
        let interrupt = Arc::<Interrupt>::default();
        Self {
            limits: limits(&parts),
            executor: Executor::new(&parts.model, interrupt.flag(), config.geometries),
            config,
            interrupt,
            parts,
            encoding: VecDeque::new(),
            recent: VisionCache::new(config.vision_cache_tokens),
        }
    }

    /// Starts to encode one batch of the sequences' waiting inputs, in their order: those of the
    /// kind and size of the first. An input of several sequences is encoded once.
    /// [`Runner::poll_encoded`] returns the batch when it is ready.
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
        let has = |sequence: &Sequence| {
            let mut inputs = sequence.inputs();
            inputs.any(|input| batch.iter().any(|other| same(other, input)))
        };
        let windows = sequences.iter().filter(|sequence| has(sequence));
        let windows = windows.map(|sequence| sequence.interest()).collect();
        let running = self.interrupt.begin(windows);
        let vision_batch = self.begin(&batch);
        drop(running);
        self.encoding.push_back(vision_batch?);
        for sequence in sequences {
            sequence.mark_encoding(&batch);
        }
        Ok(())
    }

    /// Makes the sequence ready for the next step: supplies encoded tokens and lays out the known
    /// part of its prompt.
    ///
    /// # Errors
    ///
    /// See [`StepError`].
    pub fn advance(&self, sequence: &mut Sequence) -> Result<(), StepError> {
        self.supply(sequence);
        sequence.advance(&self.parts.tokenizer, &self.parts.model.config)?;
        Ok(self.limits.check(sequence.tokens(), 0)?)
    }

    /// Gives the sequence the cached tokens of its inputs, and marks the inputs of batches in
    /// progress.
    pub fn supply(&self, sequence: &mut Sequence) {
        sequence.encoded(|input| self.recent.find(input).cloned());
        for vision_batch in &self.encoding {
            sequence.mark_encoding(&vision_batch.inputs);
        }
    }

    /// Interrupts steps without waiters, from any thread.
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// Fewest tokens of a timestamp before a frame pair.
    ///
    /// # Errors
    ///
    /// If the tokenizer fails.
    pub fn time_tokens(&self) -> Result<usize, TokenizerError> {
        let times = (0..100).map(|tenths| timestamp_text(f64::from(tenths) / 10.0));
        let mut least = usize::MAX;
        for time in times {
            least = least.min(self.parts.tokenizer.encode(&time)?.len());
        }
        Ok(least)
    }

    /// Bounds of its steps.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Limits of a window.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Runs the given number of pending tokens of each sequence through the language model in one
    /// pass. Requests without pending tokens left then sample their next token.
    ///
    /// # Errors
    ///
    /// See [`StepError`].
    pub fn forward(&mut self, shares: Vec<(&mut Sequence, usize)>) -> Result<(), StepError> {
        let start = Instant::now();
        let windows = shares
            .iter()
            .map(|(sequence, _)| sequence.interest())
            .collect();
        let taken = shares.into_iter().map(|(sequence, tokens)| {
            let chunk = sequence.take(tokens, start)?;
            Ok((sequence, chunk))
        });
        let mut taken = taken.collect::<Result<Vec<_>, candle_core::Error>>()?;
        let mut slices: Vec<SequenceSlice<'_>> = taken
            .iter_mut()
            .map(|(sequence, chunk)| SequenceSlice {
                outputs: sequence.samples().into(),
                chunk,
                state: &mut sequence.state,
            })
            .collect();
        let running = self.interrupt.begin(windows);
        let logits = self.executor.forward(&self.parts.model, &mut slices);
        let logits = self.interrupt.unless(logits)?;
        drop(running);
        let time = start.elapsed();
        let mut sampling = Vec::new();
        for (sequence, _) in taken {
            sequence.passed(time);
            if sequence.samples() {
                sampling.push(sequence);
            }
        }
        match logits {
            Some(logits) => self.sample(&logits, sampling),
            None => Ok(()),
        }
    }
}

/// The limits that the model and the free memory allow.
fn limits(parts: &RunnerParts) -> Limits {
    let vision = &parts.model.vision;
    let free = free_memory(vision.device()).map_or(u64::MAX, |bytes| bytes / 2);
    let tokens = free / vision.bytes_per_token(parts.model.kv.dtype()).max(1);
    Limits {
        context: parts.model.config.text_config.max_position_embeddings,
        kv_tokens: parts.kv_blocks.saturating_mul(BLOCK_TOKENS),
        input_tokens: usize::try_from(tokens).unwrap_or(usize::MAX),
    }
}
