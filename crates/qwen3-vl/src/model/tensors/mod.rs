//! The platform that computes with tensors: on the CPU with the kernels of [`crate::cpu`] and the
//! model's own threads; on a GPU with candle's operations, for types and heads without kernels of
//! ours.

mod text;
mod vision;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::chunk::{SequenceSlice, batch};
use super::linear::Reused;
use super::platform::{Candidates, Penalties, PendingEncode, Platform};
use super::vision::{Geometry, VisionTokens, VisionTower};
use super::{TextModel, Workspace};
use crate::cpu::patchify::{Cut, patchify_rows};
use crate::cpu::pool::{Flag, Pool};
use qwen3_vl_core::frames::VisionInput;
use text::TensorText;
use vision::TensorVision;

/// Patches that are cut between polls of the interrupt flag.
const PATCHES: usize = 2048;

/// The platform; see the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensors;

/// Threads and memory of passes on the CPU.
#[derive(Debug, Default)]
pub(crate) struct CpuWorkspace {
    threads: Pool,
    text: (Reused, Reused),
    vision: (Reused, Reused),
}

impl CpuWorkspace {
    /// A workspace with threads, whose kernels poll the flag.
    pub(super) fn threaded(flag: &Flag) -> Self {
        Self {
            threads: Pool::new(flag),
            ..Self::default()
        }
    }
}

/// An error if the flag is raised.
pub(super) fn check(flag: &Flag) -> Result<()> {
    match flag.is_raised() {
        true => bail!("interrupted"),
        false => Ok(()),
    }
}

impl Tensors {
    /// Encodes patches to vision tokens.
    pub(crate) fn tokens(
        tower: &VisionTower,
        patches: &Tensor,
        geometry: &Geometry,
        workspace: &mut Workspace,
    ) -> Result<VisionTokens> {
        let Workspace { flag, cpu, .. } = workspace;
        let mut ops = TensorVision {
            flag,
            geometry,
            reused: &mut cpu.vision,
        };
        cpu.threads
            .run(|| tower.encode(&mut ops, patches, geometry))
    }
}

impl Platform for Tensors {
    fn logits(
        &self,
        model: &TextModel,
        slices: &mut [SequenceSlice<'_>],
        workspace: &mut Workspace,
    ) -> Result<Option<Tensor>> {
        let Workspace { flag, cpu, .. } = workspace;
        let (threads, reused) = (&cpu.threads, &mut cpu.text);
        threads.run(|| {
            let all = batch(slices);
            let mut ops = TensorText::new(model, slices, &all, flag, reused)?;
            model.logits(&mut ops, &all)
        })
    }

    fn patches(
        &self,
        inputs: &[VisionInput],
        cut: &Cut,
        (dtype, device): (DType, &Device),
        workspace: &mut Workspace,
    ) -> Result<Tensor> {
        let mut values = Vec::new();
        for input in inputs {
            let patches = cut.patches(input);
            values.reserve(patches * cut.values());
            for first in (0..patches).step_by(PATCHES) {
                let rows = first..patches.min(first + PATCHES);
                patchify_rows(input, cut, rows, &mut values);
                workspace.check()?;
            }
        }
        let shape = (values.len() / cut.values(), cut.values());
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }

    fn encode(
        &self,
        tower: &VisionTower,
        patches: &Tensor,
        geometry: &Geometry,
        _: &Device,
        workspace: &mut Workspace,
    ) -> Result<Box<dyn PendingEncode>> {
        Ok(Box::new(Self::tokens(tower, patches, geometry, workspace)?))
    }

    fn candidates(
        &self,
        logits: &Tensor,
        _: Option<usize>,
        _: &Penalties<'_>,
        _: &mut Workspace,
    ) -> Result<Candidates> {
        Ok(Candidates::All(logits.to_dtype(DType::F32)?.to_vec2()?))
    }
}
