//! What the engine calls of a model: encode, forward, candidates.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::{Result, Tensor, bail};

use super::platform::{Candidates, PendingEncode};
use super::{Geometry, Grid, Model, SequenceSlice, Workspace};
use crate::cpu::patchify::Cut;
use crate::cpu::pool::Flag;
use crate::sampling::Penalty;
use qwen3_vl_core::frames::VisionInput;

/// Runs a model on its device, with the memory that passes reuse. Each thread that runs a model has
/// its own.
pub struct Executor {
    workspace: Workspace,
    geometries: HashMap<Grid, Geometry>,
    /// How many geometries to cache; a camera has one grid size.
    most_geometries: usize,
}

impl Executor {
    /// An executor for the model, whose passes are interrupted when the flag is raised. It caches
    /// the positions of `geometries` grid sizes.
    pub fn new(model: &Model, flag: &Flag, geometries: usize) -> Self {
        Self {
            workspace: Workspace::new(model.kv.device(), flag),
            geometries: HashMap::new(),
            most_geometries: geometries,
        }
    }

    /// Warnings about what works on the device, but not as it should.
    pub(crate) fn notices(&mut self, model: &Model) -> Vec<String> {
        model.platform.notices(&mut self.workspace)
    }

    /// Starts to encode inputs of one kind and size, cut into patches by `cut`.
    ///
    /// # Errors
    ///
    /// If there are no inputs, the device fails or the pass is interrupted.
    pub fn encode(
        &mut self,
        model: &Model,
        inputs: &[VisionInput],
        cut: &Cut,
    ) -> Result<Box<dyn PendingEncode>> {
        let Some(first) = inputs.first() else {
            bail!("nothing to encode");
        };
        let Model {
            vision, platform, ..
        } = model;
        let (size, workspace) = (first.size(), &mut self.workspace);
        let grid = Grid {
            rows: size.height as usize / cut.patch,
            columns: size.width as usize / cut.patch,
        };
        let to = (model.kv.dtype(), vision.device());
        let patches = platform.patches(inputs, cut, to, workspace)?;
        if self.geometries.len() >= self.most_geometries && !self.geometries.contains_key(&grid) {
            self.geometries.clear();
        }
        let geometry = match self.geometries.entry(grid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(vision.geometry(grid)?),
        };
        platform.encode(vision, &patches, geometry, model.kv.device(), workspace)
    }

    /// Runs slices of sequences through the language model; see
    /// [`TextModel::forward`](super::TextModel::forward).
    ///
    /// # Errors
    ///
    /// See there.
    pub fn forward(
        &mut self,
        model: &Model,
        slices: &mut [SequenceSlice<'_>],
    ) -> Result<Option<Tensor>> {
        model.text.forward(slices, &mut self.workspace)
    }

    /// The candidates for the next tokens, from `logits` `[sequences, vocabulary]`. `most` is the
    /// largest number of candidates that a sequence needs; none if one needs all. `penalties` gives
    /// the row and penalty of each penalised logit, for a device that applies penalties itself.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn candidates(
        &mut self,
        model: &Model,
        logits: &Tensor,
        most: Option<usize>,
        penalties: &dyn Fn() -> Vec<(u32, Penalty)>,
    ) -> Result<Candidates> {
        let workspace = &mut self.workspace;
        model
            .platform
            .candidates(logits, most, penalties, workspace)
    }
}
