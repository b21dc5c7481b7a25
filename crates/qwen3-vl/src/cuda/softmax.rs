//! The softmax of attention without a fused kernel: in f32 with many queries.

use candle_core::{Result, Tensor, bail};

use super::launch::{address, device_of, launch};
use super::suffix;
use crate::model::attention::SoftmaxArgs;

/// Turns attention scores into weights, in place (a [`Softmax`](crate::model::attention::Softmax)).
///
/// # Errors
///
/// See [`Softmax::run`].
pub(crate) fn weights(scores: Tensor, args: SoftmaxArgs) -> Result<Tensor> {
    let softmax = Softmax {
        scale: args.scale,
        queries: args.queries,
        seen: args.seen,
    };
    softmax.run(&scores).map(|()| scores)
}

/// Softmax of scaled, causally masked attention scores, in f32 arithmetic.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    /// Factor of the scores, more than 0.
    pub scale: f32,
    /// Queries per head, whose rows follow each other.
    pub queries: usize,
    /// Keys that the first query attends to; each later query attends to one more, up to all.
    pub seen: usize,
}

impl Softmax {
    /// Runs it on `scores` `[…, queries, keys]`, in place.
    ///
    /// # Errors
    ///
    /// If the type is not [supported](super::is_supported), the sizes do not fit, or the device
    /// fails.
    pub fn run(self, scores: &Tensor) -> Result<()> {
        let keys = scores.dims().last().copied().unwrap_or(0);
        if keys == 0 || self.seen == 0 || self.queries == 0 {
            bail!("softmax: {self:?} of {:?}", scores.shape());
        }
        let arguments = [
            address(scores)?.into(),
            (self.queries as u32).into(),
            (keys as u32).into(),
            (self.seen as u32).into(),
            self.scale.into(),
        ];
        let name = format!("softmax_{}", suffix(scores.dtype())?);
        let grid = (scores.elem_count() / keys, 1, 1);
        // SAFETY: the arguments of softmax.cu; rows and keys are the tensor's.
        unsafe { launch(device_of(scores)?, &name, grid, 256, &arguments) }
    }
}
