//! How a model runs on an NVIDIA GPU: what there are kernels for by them, the rest by candle's operations.

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

/// The platform of a model on such a device.
pub(crate) fn platform(text: &TextModel, tower: &VisionTower) -> Option<Arc<dyn Platform>> {
    if !tower.device().is_cuda() {
        return None;
    }
    let ours = |is_supported| match is_supported {
        true => Kernels::Ours,
        false => Kernels::Candle,
    };
    // A step with rounded weights is not the same kernels every time, and one with experts waits for the
    // host, which chooses them: such steps cannot be recorded.
    let repeats = !text.has_experts()
        && text
            .linears()
            .all(|linear: &Linear| linear.format().is_none());
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
    /// Ours, decode steps as graphs.
    Recorded,
    /// Ours, launched one by one.
    Launched,
    Candle,
}

/// Whose kernels run what.
#[derive(Debug)]
struct Cuda {
    /// Frames to patches, and the choice of candidates.
    values: Kernels,
    text: TextKernels,
    vision: Kernels,
}

impl Platform for Cuda {
    fn logits(
        &self,
        model: &TextModel,
        parts: &mut [SequenceSlice<'_>],
        workspace: &mut Workspace,
    ) -> Result<Option<Tensor>> {
        match self.text {
            TextKernels::Candle => return Tensors.logits(model, parts, workspace),
            TextKernels::Launched => {}
            TextKernels::Recorded => {
                if let Some(logits) = graph::decode(model, parts, kept(workspace))? {
                    return Ok(Some(logits));
                }
            }
        }
        decoder::logits(model, parts, kept(workspace))
    }

    fn patches(
        &self,
        inputs: &[VisionInput],
        cut: &Cut,
        to: (DType, &Device),
        workspace: &mut Workspace,
    ) -> Result<Tensor> {
        match self.values {
            Kernels::Ours => kept(workspace).frames.patches(inputs, cut, to.0, to.1),
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
            Kernels::Ours => vision::tokens(tower, patches, geometry, kept(workspace))?,
            Kernels::Candle => Tensors::tokens(tower, patches, geometry, workspace)?,
        };
        Ok(Box::new(Flight(Mark::new(&tokens, to)?)))
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
                let staging = &mut kept(workspace).staging;
                choice::candidates(logits, k, &penalties(), staging).map(Candidates::Best)
            }
            _ => Tensors.candidates(logits, most, penalties, workspace),
        }
    }

    fn notices(&self, workspace: &mut Workspace) -> Vec<String> {
        kept(workspace).notices()
    }
}

/// What passes on such a device keep.
fn kept(workspace: &mut Workspace) -> &mut super::workspace::Workspace {
    workspace.of_device()
}

/// Vision tokens that the device computes, on a stream of their own.
struct Flight(Mark);

impl PendingEncode for Flight {
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
