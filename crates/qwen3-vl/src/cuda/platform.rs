//! Runs a model on an NVIDIA GPU: with our kernels where they exist, else with candle's operations.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::handover::Mark;
use super::{choice, decoder, graph, is_supported, vision};
use crate::cpu::patchify::Cut;
use crate::model::chunk::SequenceSlice;
use crate::model::linear::Linear;
use crate::model::platform::{Candidates, Penalties, PendingEncode, Platform};
use crate::model::tensors::Tensors;
use crate::model::vision::{Geometry, VisionTokens, VisionTower};
use crate::model::{TextModel, Workspace};
use qwen3_vl_core::frames::VisionInput;

/// The platform of a model on a CUDA device; none on another device.
pub(crate) fn platform(text: &TextModel, tower: &VisionTower) -> Option<Arc<dyn Platform>> {
    if !tower.device().is_cuda() {
        return None;
    }
    let ours = |is_supported| match is_supported {
        true => Kernels::Ours,
        false => Kernels::Candle,
    };
    // A step with candle's quantized products does not launch the same kernels every time, and one
    // whose experts the host chooses waits for it: such steps cannot be recorded.
    let repeats = !text.waits() && text.linears().all(Linear::repeats);
    Some(Arc::new(Cuda {
        values: ours(is_supported(text.norm.dtype())),
        text: match decoder::supports(text) {
            true if repeats => TextKernels::Recorded,
            true => TextKernels::Launched,
            false => TextKernels::Candle,
        },
        vision: ours(vision::supports(tower)),
    }))
}

#[derive(Clone, Copy, Debug)]
enum Kernels {
    Ours,
    Candle,
}

#[derive(Clone, Copy, Debug)]
enum TextKernels {
    /// Our kernels; decode steps are recorded as graphs.
    Recorded,
    /// Our kernels, launched one by one.
    Launched,
    Candle,
}

/// Whether our kernels or candle's run each part of a model.
#[derive(Debug)]
struct Cuda {
    /// Cutting frames into patches, and choosing candidates.
    values: Kernels,
    text: TextKernels,
    vision: Kernels,
}

impl Platform for Cuda {
    fn logits(
        &self,
        model: &TextModel,
        slices: &mut [SequenceSlice<'_>],
        workspace: &mut Workspace,
    ) -> Result<Option<Tensor>> {
        match self.text {
            TextKernels::Candle => return Tensors.logits(model, slices, workspace),
            TextKernels::Launched => {}
            TextKernels::Recorded => {
                if let Some(logits) = graph::decode(model, slices, kept(workspace)?)? {
                    return Ok(Some(logits));
                }
            }
        }
        decoder::logits(model, slices, kept(workspace)?)
    }

    fn patches(
        &self,
        inputs: &[VisionInput],
        cut: &Cut,
        to: (DType, &Device),
        workspace: &mut Workspace,
    ) -> Result<Tensor> {
        match self.values {
            Kernels::Ours => kept(workspace)?.frames.patches(inputs, cut, to.0, to.1),
            Kernels::Candle => Tensors.patches(inputs, cut, to, workspace),
        }
    }

    fn encode(
        &self,
        tower: &VisionTower,
        patches: &Tensor,
        geometry: &Geometry,
        to: &Device,
        workspace: &mut Workspace,
    ) -> Result<Box<dyn PendingEncode>> {
        let tokens = match self.vision {
            Kernels::Ours => vision::tokens(tower, patches, geometry, kept(workspace)?)?,
            Kernels::Candle => Tensors::tokens(tower, patches, geometry, workspace)?,
        };
        Ok(Box::new(EncodeInProgress(Mark::new(&tokens, to)?)))
    }

    fn candidates(
        &self,
        logits: &Tensor,
        most: Option<usize>,
        penalties: &Penalties<'_>,
        workspace: &mut Workspace,
    ) -> Result<Candidates> {
        let most = most.filter(|k| *k <= choice::MOST && *k <= logits.dims()[1]);
        match (self.values, most) {
            (Kernels::Ours, Some(k)) => {
                let staging = &mut kept(workspace)?.staging;
                choice::candidates(logits, k, &penalties(), staging).map(Candidates::Best)
            }
            _ => Tensors.candidates(logits, most, penalties, workspace),
        }
    }

    fn notices(&self, workspace: &mut Workspace) -> Vec<String> {
        kept(workspace).map_or_else(|_| Vec::new(), |kept| kept.notices())
    }
}

/// The CUDA part of the workspace.
fn kept(workspace: &mut Workspace) -> Result<&mut super::workspace::Workspace> {
    workspace.of_device()
}

/// Vision tokens that the device is computing on the vision stream.
struct EncodeInProgress(Mark);

impl PendingEncode for EncodeInProgress {
    fn is_ready(&self) -> bool {
        self.0.is_reached()
    }

    fn wait(&self) -> Result<()> {
        self.0.reach()
    }

    fn finish(self: Box<Self>) -> Result<VisionTokens> {
        self.0.hand_over()
    }
}
