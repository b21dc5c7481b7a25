//! How a kind of device runs a model. Chosen once, when the model is loaded.

use std::fmt::Debug;

use candle_core::{DType, Device, Result, Tensor};

use super::chunk::SequenceSlice;
use super::vision::{Geometry, VisionTokens, VisionTower};
use super::{TextModel, Workspace};
use crate::cpu::patchify::Cut;
use crate::sampling::Penalty;
use qwen3_vl_core::frames::VisionInput;

/// What a token is chosen from, for each sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Candidates {
    /// The logits of the whole vocabulary, nothing taken off.
    All(Vec<Vec<f32>>),
    /// Tokens with the largest logits, largest first, of equal ones the first; penalties taken off.
    Best(Vec<Vec<(u32, f32)>>),
}

/// Makes the penalties of all rows: the row, and what is taken off one of its logits.
pub(crate) type Penalties<'a> = dyn Fn() -> Vec<(u32, Penalty)> + 'a;

/// Vision inputs that a device encodes, beside other work perhaps.
pub trait PendingEncode: Send {
    /// Whether it is over. One whose device has failed is over: what comes next says so.
    fn is_ready(&self) -> bool;

    /// Waits until it is over.
    ///
    /// # Errors
    ///
    /// If the device has failed.
    fn wait(&self) -> Result<()>;

    /// The tokens, on the language model's device. Waits for nothing but the order of the two
    /// devices' work.
    ///
    /// # Errors
    ///
    /// If a device fails.
    fn finish(self: Box<Self>) -> Result<VisionTokens>;
}

/// Tokens that are there.
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

/// Runs the forward passes with the operations of a kind of device, and does what is around them:
/// frames in, candidates out.
pub(crate) trait Platform: Debug + Send + Sync {
    /// Runs parts, whose caches have room, through the language model: the logits behind the rows
    /// that they ask for `[outputs of all, vocabulary]`, or none. The caches do not count the new
    /// tokens yet.
    fn logits(
        &self,
        model: &TextModel,
        parts: &mut [SequenceSlice<'_>],
        workspace: &mut Workspace,
    ) -> Result<Option<Tensor>>;

    /// The patches of inputs of one kind and size `[patches of all, 3 * temporal * patch * patch]`.
    fn patches(
        &self,
        inputs: &[VisionInput],
        cut: &Cut,
        to: (DType, &Device),
        workspace: &mut Workspace,
    ) -> Result<Tensor>;

    /// Begins to encode patches of grids of one size, for the language model on `to`.
    fn encode(
        &self,
        tower: &VisionTower,
        patches: &Tensor,
        geometry: &Geometry,
        to: &Device,
        workspace: &mut Workspace,
    ) -> Result<Box<dyn PendingEncode>>;

    /// What the next tokens are chosen from, given `logits` `[sequences, vocabulary]`. `most` is
    /// how many candidates a sequence needs, if none needs all; `penalties` are asked for where
    /// they are taken off.
    fn candidates(
        &self,
        logits: &Tensor,
        most: Option<usize>,
        penalties: &Penalties<'_>,
        workspace: &mut Workspace,
    ) -> Result<Candidates>;

    /// What the device does otherwise than it should, although it works.
    fn notices(&self, _workspace: &mut Workspace) -> Vec<String> {
        Vec::new()
    }
}
