//! Linear layers of one input (vLLM: `MergedColumnParallelLinear`).

use candle_core::{Result, Tensor, bail};

use super::linear::Linear;
use crate::weights::{Weights, WeightsError, on_device};

/// `N` linear layers of the same input. On a GPU, where one large product is faster than several
/// small ones, their weights are stored as one matrix; on the CPU, and where they are rounded, each
/// by itself.
#[derive(Clone, Debug)]
pub struct MergedLinear<const N: usize> {
    /// Each of them; views of `joined` if there is one.
    parts: [Linear; N],
    /// `[outputs of all, in]`.
    joined: Option<Linear>,
}

impl<const N: usize> MergedLinear<N> {
    /// Loads `{prefix}.{name}.weight` `[out, in]` for each name with its number of outputs, rounded
    /// as [`Linear::load_rounded`] says.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn load(
        weights: &Weights,
        prefix: &str,
        outputs: [(&str, usize); N],
        input: usize,
    ) -> std::result::Result<Self, WeightsError> {
        let part =
            |(name, out)| Linear::load_rounded(weights, &format!("{prefix}.{name}"), (out, input));
        let parts = outputs.into_iter().map(part);
        let parts: Vec<Linear> = parts.collect::<std::result::Result<_, _>>()?;
        on_device(prefix, Self::new(parts))
    }

    fn new(mut parts: Vec<Linear>) -> Result<Self> {
        let joined = Linear::join(&mut parts)?;
        match parts.try_into() {
            Ok(parts) => Ok(Self { parts, joined }),
            Err(parts) => bail!("{} linear layers for {N}", parts.len()),
        }
    }

    /// Each of the layers.
    pub fn parts(&self) -> &[Linear; N] {
        &self.parts
    }

    /// `x` `[rows, in]` to what each layer gives, `[rows, out]`. In one product, if the weights are
    /// one matrix: then rows of the results lie further apart.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<[Tensor; N]> {
        let all: Result<Vec<Tensor>> = match &self.joined {
            None => self.parts.iter().map(|part| part.forward(x)).collect(),
            Some(joined) => {
                let (all, mut first) = (joined.forward(x)?, 0);
                let part = |part: &Linear| {
                    let (start, outputs) = (first, part.outputs()?);
                    first += outputs;
                    all.narrow(1, start, outputs)
                };
                self.parts.iter().map(part).collect()
            }
        };
        match all?.try_into() {
            Ok(all) => Ok(all),
            Err(_) => bail!("{N} linear layers give another number of results"),
        }
    }
}
