//! How a kind of device runs a model; chosen when the model is loaded.

use std::fmt::Debug;

use candle_core::{DType, Device, Result, Tensor};

use super::chunk::SequenceSlice;
use super::vision::{Geometry, VisionTokens, VisionTower};
use super::{TextModel, Workspace};
use crate::cpu::patchify::Cut;
use crate::sampling::Penalty;
use qwen3_vl_core::frames::VisionInput;

/// The candidates for the next token, for each sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Candidates {
    /// The logits of the whole vocabulary, without penalties.
    All(Vec<Vec<f32>>),
    /// The tokens with the largest logits, largest first and equal ones by id; penalties are
    /// applied.
    Best(Vec<Vec<(u32, f32)>>),
}

/// Gives the penalties of all rows: the row, and the penalty of one of its logits.
pub(crate) type Penalties<'a> = dyn Fn() -> Vec<(u32, Penalty)> + 'a;

/// Vision inputs that are being encoded, possibly concurrently with other work.
pub trait PendingEncode: Send {
    /// Whether it is ready. It is also ready if the device has failed, which the next call reports.
    fn is_ready(&self) -> bool;

    /// Waits until it is ready.
    ///
    /// # Errors
    ///
    /// If the device has failed.
    fn wait(&self) -> Result<()>;

    /// The tokens, on the language model's device. The host does not wait; the language model's
    /// stream does.
    ///
    /// # Errors
    ///
    /// If a device fails.
    fn finish(self: Box<Self>) -> Result<VisionTokens>;
}

/// Tokens that are ready at once.
impl PendingEncode for VisionTokens {
    fn is_ready(&self) -> bool {
        true
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<VisionTokens> {
        Ok(*self)
    }
}

/// Runs the forward passes with the operations of a kind of device, from frames to candidates.
pub(crate) trait Platform: Debug + Send + Sync {
    /// Runs slices, whose cache blocks are reserved, through the language model. Returns the logits
    /// of the wanted rows `[outputs of all, vocabulary]`, or none. Does not advance the caches.
    fn logits(
        &self,
        model: &TextModel,
        slices: &mut [SequenceSlice<'_>],
        workspace: &mut Workspace,
    ) -> Result<Option<Tensor>>;

    /// The patches of inputs of one kind and size, `[patches of all, 3 * temporal * patch *
    /// patch]`.
    fn patches(
        &self,
        inputs: &[VisionInput],
        cut: &Cut,
        to: (DType, &Device),
        workspace: &mut Workspace,
    ) -> Result<Tensor>;

    /// Starts to encode patches of grids of one size, for the language model on `to`.
    fn encode(
        &self,
        tower: &VisionTower,
        patches: &Tensor,
        geometry: &Geometry,
        to: &Device,
        workspace: &mut Workspace,
    ) -> Result<Box<dyn PendingEncode>>;

    /// The candidates for the next tokens, from `logits` `[sequences, vocabulary]`. `most` is the
    /// largest number of candidates that a sequence needs; none if one needs all. A platform that
    /// applies penalties calls `penalties`.
    fn candidates(
        &self,
        logits: &Tensor,
        most: Option<usize>,
        penalties: &Penalties<'_>,
        workspace: &mut Workspace,
    ) -> Result<Candidates>;

    /// Warnings about what works on the device, but not as it should.
    fn notices(&self, _workspace: &mut Workspace) -> Vec<String> {
        Vec::new()
    }
}
