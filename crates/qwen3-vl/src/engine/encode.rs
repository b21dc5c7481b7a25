//! Vision inputs to vision tokens.

use std::collections::hash_map::Entry;
use std::time::Instant;

use candle_core::Tensor;

use super::flight::Flight;
use super::runner::{Runner, StepError};
use super::sequence::Sequence;
use super::vision_cache::Encoded;
use crate::cpu::patchify::{Cut, patchify_rows};
use crate::model::Grid;
use qwen3_vl_core::frames::VisionInput;

/// Patches that are encoded together, at most, unless one input has more: enough to be bound by
/// arithmetic, few enough that the memory of a step and the wait for it stay small.
const BATCH_PATCHES: u32 = 2048;

/// Grid sizes whose positions are kept; a camera has one.
const GEOMETRIES: usize = 16;

impl Runner {
    /// How many inputs of this size go through the encoder together.
    pub fn most_together(&self, input: &VisionInput) -> usize {
        let (rows, columns) = self.patches(input);
        (BATCH_PATCHES / (rows * columns).max(1)).max(1) as usize
    }

    /// Whether the inputs can go through the encoder together: they are of one kind and size.
    pub fn together(a: &VisionInput, b: &VisionInput) -> bool {
        a.size() == b.size() && pair(a) == pair(b)
    }

    /// Whether the model can take the input.
    ///
    /// # Errors
    ///
    /// If the frames do not have the sizes that they say or that the model needs.
    pub fn check(&self, input: &VisionInput) -> Result<(), StepError> {
        let config = &self.parts.model.config.vision_config;
        check(
            input,
            (config.patch_size * config.spatial_merge_size) as u32,
        )
    }

    /// Whether the sequence can take the input as its next one, before anything is computed for it.
    ///
    /// # Errors
    ///
    /// If the model cannot take the input, or the sequence would have too many tokens with it.
    pub fn check_next(&self, sequence: &Sequence, input: &VisionInput) -> Result<(), StepError> {
        self.check(input)?;
        let tokens = |input: &VisionInput| self.tokens(input);
        self.limits().check_input(input.size(), tokens(input))?;
        let to_come: usize = sequence.to_come().map(tokens).sum();
        let all = sequence.tokens() + to_come + tokens(input);
        Ok(self.limits().check(all, 1)?)
    }

    /// Vision tokens that an input becomes.
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
        let flight = self.begin(inputs)?;
        self.finish(flight)
    }

    /// Begins to encode vision inputs of one kind and size.
    pub(super) fn begin(&mut self, inputs: &[VisionInput]) -> Result<Flight, StepError> {
        let since = Instant::now();
        inputs.iter().try_for_each(|input| self.check(input))?;
        let Some(first) = inputs.first() else {
            return Err(candle_core::Error::msg("nothing to encode").into());
        };
        let patches = self.patches(first);
        let values = self.cut(inputs, pair(first))?;
        let grid = Grid {
            rows: patches.0 as usize,
            columns: patches.1 as usize,
        };
        if self.geometries.len() >= GEOMETRIES && !self.geometries.contains_key(&grid) {
            self.geometries.clear();
        }
        let tower = &self.parts.model.vision;
        let geometry = match self.geometries.entry(grid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(tower.geometry(grid)?),
        };
        let (geometry, workspace) = (&*geometry, &mut self.workspace);
        let tokens = self
            .pool
            .run(|| tower.forward(&values, geometry, workspace));
        Ok(Flight {
            inputs: inputs.to_vec(),
            tokens: self.interrupt.unless(tokens)?,
            patches,
            since,
            #[cfg(feature = "cuda")]
            mark: match tower.device() {
                device if device.is_cuda() => Some(crate::cuda::handover::Mark::new(device)?),
                _ => None,
            },
        })
    }

    /// The patches of the inputs `[patches, 1536]`, where the tower is.
    fn cut(&mut self, inputs: &[VisionInput], video: bool) -> Result<Tensor, StepError> {
        let model = &self.parts.model;
        let config = &model.config.vision_config;
        let norm = if video {
            &self.parts.video
        } else {
            &self.parts.image
        };
        let cut = Cut {
            patch: config.patch_size,
            merge: config.spatial_merge_size,
            temporal: config.temporal_patch_size,
            mean: norm.image_mean,
            std: norm.image_std,
        };
        let (device, dtype) = (model.vision.device(), model.kv.dtype());
        #[cfg(feature = "cuda")]
        if device.is_cuda() && crate::cuda::knows(dtype) {
            let frames = &mut self.workspace.cuda.frames;
            return Ok(frames.patches(inputs, &cut, dtype, device)?);
        }
        let mut values = Vec::new();
        for input in inputs {
            let patches = cut.patches(input);
            values.reserve(patches * cut.values());
            for first in (0..patches).step_by(BATCH_PATCHES as usize) {
                let rows = first..patches.min(first + BATCH_PATCHES as usize);
                patchify_rows(input, &cut, rows, &mut values);
                self.interrupt.unless(Ok(()))?;
            }
        }
        let shape = (values.len() / config.patch_len(), config.patch_len());
        Ok(Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?)
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
