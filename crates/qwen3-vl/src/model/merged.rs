//! Linear layers of one input (vLLM: `MergedColumnParallelLinear`).

use candle_core::{Result, Tensor, bail};

use super::linear::Linear;
use crate::weights::{Weights, WeightsError, on_device};

/// `N` linear layers of the same input. On a GPU their weights are stored as one matrix, because
/// one large product is faster than several small ones; on the CPU, and if they are not stored
/// alike, each by itself.
#[derive(Clone, Debug)]
pub struct MergedLinear<const N: usize> {
    /// The layers; views of `joined` if there is one.
    parts: [Linear; N],
    /// The joined layer, weight `[outputs of all, in]`.
    joined: Option<Linear>,
}

impl<const N: usize> MergedLinear<N> {
    /// Loads `{prefix}.{name}.weight` `[out, in]` for each name and its number of outputs, by
    /// [`Linear::load_rounded`].
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

    /// One layer whose outputs are those of all `layers`, which become views of it. None if they
    /// have no joined weights, or these are not joined.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub(super) fn stack(layers: &mut [&mut Self]) -> Result<Option<Linear>> {
        let joined = layers.iter().map(|layer| layer.joined.clone());
        let Some(mut joined) = joined.collect::<Option<Vec<Linear>>>() else {
            return Ok(None);
        };
        let stack = Linear::join(&mut joined)?;
        for (layer, joined) in std::iter::zip(layers, joined) {
            let mut first = 0;
            for part in &mut layer.parts {
                let outputs = part.outputs()?;
                *part = joined.narrow(first, outputs)?;
                first += outputs;
            }
            layer.joined = Some(joined);
        }
        Ok(stack)
    }

    /// The layers.
    pub fn parts(&self) -> &[Linear; N] {
        &self.parts
    }

    /// Outputs of the layers, `[rows, out]` each, for `x` `[rows, in]`. If the weights are joined,
    /// the outputs are views of one product, with gaps between their rows.
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
