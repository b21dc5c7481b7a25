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
use crate::cuda::Experts;
use crate::weights::{Weights, WeightsError, ensure_memory, on_device};
use routing::Routing;

/// The MLP of a sparse layer (transformers: `Qwen3VLMoeTextSparseMoeBlock`).
#[derive(Debug)]
pub(crate) struct SparseMoeBlock {
    /// Gives each expert's logit. It is never quantized, and multiplied in f32: it is small, and
    /// its errors choose other experts.
    router: Linear,
    experts: Vec<GatedMlp>,
    /// Experts of a token.
    top: usize,
    /// The same weights for a GPU's kernels, which choose experts themselves.
    on_device: Option<Experts>,
}

impl SparseMoeBlock {
    /// Loads `{name}.gate` and `{name}.experts.{index}`; on the CPU several experts at a time.
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
                // Memory is not checked for tensors as small as an expert's.
                let bytes: usize = first.linears().map(Linear::bytes).sum();
                ensure_memory(name, bytes.saturating_mul(rest.len()))?;
                rest.into_par_iter().map(expert).collect()
            }
            _ => rest.map(expert).collect(),
        };
        let router = (c.num_experts, c.hidden_size);
        let router = Linear::load_exact(weights, &format!("{name}.gate"), router)?;
        // The error of the first expert that has one, in the order of the experts.
        let experts = once(Ok(first)).chain(experts);
        let mut experts = experts.collect::<std::result::Result<Vec<_>, _>>()?;
        let top = c.num_experts_per_tok;
        let on_device = match weights.device() {
            Device::Cpu => None,
            _ => on_device(name, stack(&router, &mut experts, top))?,
        };
        Ok(Self {
            router,
            experts,
            top,
            on_device,
        })
    }

    /// What a GPU's kernels run; none if the host chooses experts.
    pub(crate) fn on_device(&self) -> Option<&Experts> {
        self.on_device.as_ref()
    }

    /// The experts' linear layers.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.experts.iter().flat_map(GatedMlp::linears)
    }

    /// The weighted sum of the results of each row's experts, `[rows, hidden]` like `x`. `apply`
    /// runs an expert on some rows. It is called once for each expert that a row has chosen, on the
    /// CPU in parallel. The results of a row are added in the order of the experts, so that the sum
    /// does not depend on the other rows.
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
                // One expert's products of a decode step are too short to keep all threads busy.
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
        // On the CPU a product of at most FEW_ROWS rows has the same bits for a row whatever the
        // other rows are. With more rows, of two experts with nearly the same logit one pass could
        // choose the one and another pass the other.
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

    /// Adds the experts' results with candle's operations, on any device: sums in f32 of products
    /// in the type of `x` (transformers: `batched_mm_experts_forward`).
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

/// The experts' weights in one piece, of which each expert's become views; none if there are no
/// kernels for them.
fn stack(router: &Linear, experts: &mut [GatedMlp], top: usize) -> Result<Option<Experts>> {
    let Some(router) = router.dense() else {
        return Ok(None);
    };
    let matrices = GatedMlp::stack(experts)?.map(|linears| linears.map(|of| of.matrix()));
    Ok(match matrices {
        Some([Some(gate_up), Some(down)]) => {
            Experts::new(router, gate_up, down, (experts.len(), top))
        }
        _ => None,
    })
}

/// The rows of `x` with these indices, which rise.
fn rows(x: &Tensor, indices: &[u32]) -> Result<Tensor> {
    match indices.len() == x.dim(0)? {
        // All rows in their order.
        true => Ok(x.clone()),
        false => x.index_select(&Tensor::new(indices, x.device())?, 0),
    }
}

/// Adds the experts' results, each times its weight, for each row.
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
