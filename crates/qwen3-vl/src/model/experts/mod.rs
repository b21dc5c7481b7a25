//! Mixture of experts: many small MLPs, of which each token goes through a few.

mod routing;

use std::iter::once;
use std::ops::Range;

use candle_core::{DType, Device, Result, Storage, Tensor, bail};
use rayon::prelude::*;

use super::layer::GatedMlp;
use super::linear::{Linear, slice};
use crate::config::TextConfig;
use crate::cpu::experts::weighted_sums;
use crate::cpu::matmul::FEW_ROWS;
use crate::weights::{Weights, WeightsError, ensure_memory};
use routing::Routing;

/// What a sparse layer has for its MLP (transformers: `Qwen3VLMoeTextSparseMoeBlock`).
#[derive(Debug)]
pub(crate) struct SparseMoeBlock {
    /// Gives each expert's logit. It is small and decides much: it is never rounded.
    router: Linear,
    experts: Vec<GatedMlp>,
    /// Experts of a token.
    top: usize,
}

impl SparseMoeBlock {
    /// Loads `{name}.gate` and `{name}.experts.{index}` for each expert: on the CPU several at a
    /// time.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        c: &TextConfig,
    ) -> std::result::Result<Self, WeightsError> {
        let dims = (c.hidden_size, c.moe_intermediate_size);
        let expert = |index| GatedMlp::load(weights, &format!("{name}.experts.{index}"), dims);
        let (first, rest) = (expert(0)?, 1..c.num_experts);
        let experts: Vec<_> = match weights.device() {
            Device::Cpu => {
                // Each is too small for the system to be asked whether there is memory for it.
                let bytes: usize = first.linears().map(Linear::bytes).sum();
                ensure_memory(name, bytes.saturating_mul(rest.len()))?;
                rest.into_par_iter().map(expert).collect()
            }
            _ => rest.map(expert).collect(),
        };
        let router = (c.num_experts, c.hidden_size);
        Ok(Self {
            router: Linear::load(weights, &format!("{name}.gate"), router)?,
            // Of several errors the first one, whichever came first.
            experts: once(Ok(first))
                .chain(experts)
                .collect::<std::result::Result<_, _>>()?,
            top: c.num_experts_per_tok,
        })
    }

    /// The experts' linear layers.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.experts.iter().flat_map(GatedMlp::linears)
    }

    /// The sum of what each row's experts give, `[rows, hidden]` like `x`. `apply` gives what an
    /// expert makes of some rows; it is called once for each expert that a row has chosen, on the
    /// CPU several at a time. A row's results are added by rising expert, whatever else is in the
    /// pass.
    ///
    /// # Errors
    ///
    /// Those of `apply`, or if the device fails.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        apply: impl Fn(&GatedMlp, &Tensor) -> Result<Tensor> + Sync,
    ) -> Result<Tensor> {
        let routing = Routing::new(&self.logits(x)?, self.experts.len(), self.top);
        let of_expert = |(expert, choices): &(usize, Range<usize>)| {
            let rows = rows(x, &routing.tokens[choices.clone()])?;
            apply(&self.experts[*expert], &rows)
        };
        match x.device() {
            Device::Cpu => {
                // A product of one row is too short for all threads. Those of all experts are not.
                let given = routing.experts.par_iter().map(of_expert);
                add_on_cpu(x, &given.collect::<Result<Vec<_>>>()?, &routing)
            }
            _ => {
                let given = routing.experts.iter().map(of_expert);
                self.add(x, &given.collect::<Result<Vec<_>>>()?, &routing)
            }
        }
    }

    /// The router's logits `[rows, experts]`.
    fn logits(&self, x: &Tensor) -> Result<Vec<f32>> {
        // On the CPU so few rows at a time that each row's logits are the same bits in every pass:
        // whichever of two experts with nearly the same logit is chosen, it must not be a matter of
        // time.
        let (all, most) = (
            x.dim(0)?,
            if x.device().is_cpu() {
                FEW_ROWS
            } else {
                usize::MAX
            },
        );
        let mut logits = Vec::with_capacity(all * self.experts.len());
        let mut first = 0;
        while first < all {
            let rows = most.min(all - first);
            let some = self.router.forward(&x.narrow(0, first, rows)?)?;
            logits.extend(some.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
            first += rows;
        }
        Ok(logits)
    }

    /// Likewise on any device, with candle's operations: sums in f32 of products in the type of
    /// `x`, as the reference's `batched_mm_experts_forward`.
    fn add(&self, x: &Tensor, given: &[Tensor], routing: &Routing) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        let choices = Tensor::new(routing.choices.as_slice(), x.device())?;
        let weights = Tensor::new(routing.weights.as_slice(), x.device())?;
        let weights = weights.reshape((rows, self.top, 1))?.to_dtype(x.dtype())?;
        Tensor::cat(given, 0)?
            .index_select(&choices, 0)?
            .reshape((rows, self.top, width))?
            .broadcast_mul(&weights)?
            .to_dtype(DType::F32)?
            .sum(1)?
            .to_dtype(x.dtype())
    }
}

/// Those rows of `x`.
fn rows(x: &Tensor, indices: &[u32]) -> Result<Tensor> {
    match indices.len() == x.dim(0)? {
        // All of them: their order is theirs.
        true => Ok(x.clone()),
        false => x.index_select(&Tensor::new(indices, x.device())?, 0),
    }
}

/// What the experts gave, each times its weight, added up for each row.
fn add_on_cpu(x: &Tensor, given: &[Tensor], routing: &Routing) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let storages: Vec<_> = given.iter().map(Tensor::storage_and_layout).collect();
    let mut results = Vec::with_capacity(routing.tokens.len());
    for (storage, layout) in &storages {
        match &**storage {
            Storage::Cpu(values) => {
                results.extend(slice(values.as_slice()?, layout)?.chunks_exact(width));
            }
            _ => bail!("experts on different devices"),
        }
    }
    let sums = weighted_sums(&results, &routing.choices, &routing.weights, (rows, width));
    Tensor::from_vec(sums, (rows, width), &Device::Cpu)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
