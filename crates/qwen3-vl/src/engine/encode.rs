//! Encodes vision inputs to vision tokens.

use std::time::Instant;

use super::runner::{Runner, StepError};
use super::sequence::Sequence;
use super::vision_batch::VisionBatch;
use super::vision_cache::Encoded;
use crate::cpu::patchify::Cut;
use qwen3_vl_core::frames::VisionInput;

impl Runner {
    /// Inputs of this size that one batch of the encoder takes, at least 1.
    pub fn most_together(&self, input: &VisionInput) -> usize {
        let (rows, columns) = self.patches(input);
        (self.config.vision_batch_patches / (rows * columns).max(1)).max(1) as usize
    }

    /// Whether the inputs can be in one batch of the encoder: they are of one kind and size.
    pub fn together(a: &VisionInput, b: &VisionInput) -> bool {
        a.size() == b.size() && pair(a) == pair(b)
    }

    /// Checks that the model can take the input.
    ///
    /// # Errors
    ///
    /// [`StepError::Frame`] if a frame's bytes do not match its size, the frames of a pair differ
    /// in size, or a side is not a multiple of patch size times merge size.
    pub fn check(&self, input: &VisionInput) -> Result<(), StepError> {
        let config = &self.parts.model.config.vision_config;
        check(
            input,
            (config.patch_size * config.spatial_merge_size) as u32,
        )
    }

    /// Checks that the sequence can take the input as its next one, before anything is computed for
    /// it.
    ///
    /// # Errors
    ///
    /// [`StepError::Frame`] as for [`Runner::check`]; [`StepError::Limit`] if the input or the
    /// sequence would have too many tokens.
    pub fn check_next(&self, sequence: &Sequence, input: &VisionInput) -> Result<(), StepError> {
        self.check(input)?;
        let tokens = |input: &VisionInput| self.tokens(input);
        self.limits().check_input(input.size(), tokens(input))?;
        let to_come: usize = sequence.to_come().map(tokens).sum();
        let all = sequence.tokens() + to_come + tokens(input);
        Ok(self.limits().check(all, 1)?)
    }

    /// Vision tokens of an input, after merging patches.
    fn tokens(&self, input: &VisionInput) -> usize {
        let (rows, columns) = self.patches(input);
        let merge = self.parts.model.config.vision_config.spatial_merge_size;
        (rows as usize / merge) * (columns as usize / merge)
    }

    fn patches(&self, input: &VisionInput) -> (u32, u32) {
        let patch = self.parts.model.config.vision_config.patch_size as u32;
        let size = input.size();
        (size.height / patch, size.width / patch)
    }

    /// Encodes vision inputs of one kind and size.
    ///
    /// # Errors
    ///
    /// See [`StepError`].
    pub fn encode(&mut self, inputs: &[VisionInput]) -> Result<Vec<Encoded>, StepError> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let vision_batch = self.begin(inputs)?;
        self.finish(vision_batch)
    }

    /// Starts to encode vision inputs of one kind and size, without waiting for the device.
    pub(super) fn begin(&mut self, inputs: &[VisionInput]) -> Result<VisionBatch, StepError> {
        let since = Instant::now();
        inputs.iter().try_for_each(|input| self.check(input))?;
        let Some(first) = inputs.first() else {
            return Err(candle_core::Error::msg("nothing to encode").into());
        };
        let (patches, cut) = (self.patches(first), self.cut(pair(first)));
        let pending = self.executor.encode(&self.parts.model, inputs, &cut);
        Ok(VisionBatch {
            inputs: inputs.to_vec(),
            pending: self.interrupt.unless(pending)?,
            patches,
            since,
        })
    }

    /// How inputs are cut into patches and normalised.
    fn cut(&self, video: bool) -> Cut {
        let config = &self.parts.model.config.vision_config;
        let norm = if video {
            &self.parts.video
        } else {
            &self.parts.image
        };
        Cut {
            patch: config.patch_size,
            merge: config.spatial_merge_size,
            temporal: config.temporal_patch_size,
            mean: norm.image_mean,
            std: norm.image_std,
        }
    }
}

fn pair(input: &VisionInput) -> bool {
    matches!(input, VisionInput::Pair(_))
}

fn check(input: &VisionInput, factor: u32) -> Result<(), StepError> {
    let frames: &[_] = match input {
        VisionInput::Pair(pair) => pair,
        VisionInput::Image(frame) => std::slice::from_ref(frame),
    };
    let fits = |size: qwen3_vl_core::frames::Size, bytes: usize| {
        let sides = [size.width, size.height];
        size == input.size()
            && sides
                .iter()
                .all(|side| *side > 0 && side.is_multiple_of(factor))
            && bytes as u64 == u64::from(size.width) * u64::from(size.height) * 3
    };
    match frames
        .iter()
        .find(|frame| !fits(frame.size, frame.rgb.len()))
    {
        None => Ok(()),
        Some(frame) => Err(StepError::Frame {
            width: frame.size.width,
            height: frame.size.height,
            bytes: frame.rgb.len(),
            factor,
        }),
    }
}
