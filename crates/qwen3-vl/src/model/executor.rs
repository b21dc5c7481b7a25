//! All that the engine asks of a model: encode, forward, candidates.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::{Result, Tensor, bail};

use super::platform::{Candidates, PendingEncode};
use super::{Geometry, Grid, Model, SequenceSlice, Workspace};
use crate::cpu::patchify::Cut;
use crate::cpu::pool::Flag;
use crate::sampling::Penalty;
use qwen3_vl_core::frames::VisionInput;

/// Runs a model on its device, with what passes keep between them. One for each thread that runs a
/// model.
pub struct Executor {
    workspace: Workspace,
    geometries: HashMap<Grid, Geometry>,
    /// How many of them are kept; a camera has one grid size.
    most_geometries: usize,
}

impl Executor {
    /// An executor for the model, whose passes end early when the flag is raised. It keeps the
    /// positions of so many grid sizes.
    pub fn new(model: &Model, flag: &Flag, geometries: usize) -> Self {
        Self {
            workspace: Workspace::new(model.kv.device(), flag),
            geometries: HashMap::new(),
            most_geometries: geometries,
        }
    }

    /// What the device does otherwise than it should, although it works.
    pub(crate) fn notices(&mut self, model: &Model) -> Vec<String> {
        model.platform.notices(&mut self.workspace)
    }

    /// Begins to encode inputs of one kind and size, cut as `cut` says.
    ///
    /// # Errors
    ///
    /// If there are none, the device fails or the pass is interrupted.
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

    /// Runs parts through the language model, see
    /// [`TextModel::forward`](super::TextModel::forward).
    ///
    /// # Errors
    ///
    /// See there.
    pub fn forward(
        &mut self,
        model: &Model,
        parts: &mut [SequenceSlice<'_>],
    ) -> Result<Option<Tensor>> {
        model.text.forward(parts, &mut self.workspace)
    }

    /// What the next tokens are chosen from, given `logits` `[sequences, vocabulary]`. `most` is
    /// how many of the largest a sequence needs, if none needs all; `penalties` makes the row and
    /// penalty of each logit that has one, for a device that takes them off itself.
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
