//! The softmax of attention where there is no kernel for all of it: in f32 with many queries.

use candle_core::{Result, Tensor, bail};

use super::launch::{address, device_of, launch};
use super::suffix;
use crate::model::attention::SoftmaxArgs;

/// Weights of scores, in place (a [`Softmax`](crate::model::attention::Softmax)).
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

/// Turns scores into weights, in f32 arithmetic.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    /// What scores are multiplied by, more than 0.
    pub scale: f32,
    /// Queries, whose rows follow each other.
    pub queries: usize,
    /// Keys that the first of them sees; each next one sees one more, up to all.
    pub seen: usize,
}

impl Softmax {
    /// Runs it on `scores` `[…, queries, keys]`, in place.
    ///
    /// # Errors
    ///
    /// If [`super::is_supported`] does not know the type, the sizes do not fit, or the device
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
        // SAFETY: the arguments of softmax.cu, and there are so many rows of so many keys.
        unsafe { launch(device_of(scores)?, &name, grid, 256, &arguments) }
    }
}
