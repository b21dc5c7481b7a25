//! Vision inputs to vision tokens.

use std::collections::hash_map::Entry;

use candle_core::Tensor;

use super::runner::{Runner, StepError};
use super::vision_cache::Encoded;
use crate::frames::{VisionInput, patchify};
use crate::model::{Grid, VisionTokens};

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
        let Some(first) = inputs.first() else {
            return Ok(Vec::new());
        };
        let config = &self.parts.model.config.vision_config;
        let merge = config.spatial_merge_size as u32;
        inputs.iter().try_for_each(|input| self.check(input))?;
        let norm = if pair(first) {
            &self.parts.video
        } else {
            &self.parts.image
        };
        let mut values = Vec::new();
        for input in inputs {
            values.extend(patchify(
                input,
                config.patch_size,
                config.spatial_merge_size,
                config.temporal_patch_size,
                norm.image_mean,
                norm.image_std,
            ));
        }
        let patches = self.patches(first);
        let tokens = self.vision(values, patches)?;
        let encoded = tokens.into_iter().map(|tokens| Encoded {
            tokens,
            merged: (patches.0 / merge, patches.1 / merge),
            patches,
        });
        Ok(encoded.collect())
    }

    fn vision(
        &mut self,
        values: Vec<f32>,
        (rows, columns): (u32, u32),
    ) -> Result<Vec<VisionTokens>, StepError> {
        let grid = Grid {
            rows: rows as usize,
            columns: columns as usize,
        };
        if self.geometries.len() >= GEOMETRIES && !self.geometries.contains_key(&grid) {
            self.geometries.clear();
        }
        let model = &self.parts.model;
        let geometry = match self.geometries.entry(grid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(model.vision.geometry(grid)?),
        };
        let patch_len = model.config.vision_config.patch_len();
        let shape = (values.len() / patch_len, patch_len);
        let patches = Tensor::from_vec(values, shape, model.kv.device())?;
        let patches = patches.to_dtype(model.kv.dtype())?;
        let geometry = &*geometry;
        let tokens = self.pool.run(|| model.vision.forward(&patches, geometry))?;
        Ok(tokens)
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
    let fits = |size: crate::frames::Size, bytes: usize| {
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
