//! The language model's operations, by our kernels.

use candle_core::{CudaDevice, DType, Device, Result, Tensor};

use super::launch::{device, unwritten};
use super::pass::Pass;
use super::rows::{add_rms_norm, embed, silu_mul};
use super::workspace::Workspace;
use super::{addresses, attention, is_supported, pass, rope, softmax};
use crate::model::TextModel;
use crate::model::attention::attend_products;
use crate::model::attention_metadata::{AttentionMetadata, SequenceInput};
use crate::model::chunk::{Chunk, SequenceSlice, batch, overlay};
use crate::model::embedding::Embedding;
use crate::model::experts::SparseMoeBlock;
use crate::model::heads::Heads;
use crate::model::layer::Attention;
use crate::model::merged::MergedLinear;
use crate::model::norm::RmsNorm;
use crate::model::ops::{Rows, TextOps};

/// Whether there are kernels for the model.
pub fn supports(model: &TextModel) -> bool {
    model.norm.weight().device().is_cuda()
        && is_supported(model.norm.dtype())
        && model.embeddings.dtype() == model.norm.dtype()
        && attention::is_supported(model.heads)
        && model.norm.weight().elem_count().is_multiple_of(8)
}

/// The metadata of a pass.
///
/// # Errors
///
/// If the device fails.
pub fn metadata(model: &TextModel, slices: &[SequenceSlice<'_>]) -> Result<AttentionMetadata> {
    let inputs = slices.iter().map(|slice| {
        Ok(SequenceInput {
            ids: &slice.chunk.ids,
            positions: &slice.chunk.positions,
            cached: slice.state.len(),
            outputs: slice.outputs,
            pages: addresses(slice.state.attention().pages())?,
        })
    });
    let heads = model.heads;
    let token = heads.of_token() * model.norm.dtype().size_in_bytes();
    Ok(AttentionMetadata::new(
        &inputs.collect::<Result<Vec<_>>>()?,
        token,
        heads.group(),
    ))
}

/// Runs slices, whose cache blocks are reserved, kernel by kernel. Returns the logits of the wanted
/// rows.
///
/// # Errors
///
/// If the device fails.
pub fn logits(
    model: &TextModel,
    slices: &[SequenceSlice<'_>],
    workspace: &mut Workspace,
) -> Result<Option<Tensor>> {
    let on = model.norm.weight().device();
    let pass = pass(&metadata(model, slices)?, &model.rope, on, workspace)?;
    let mut kernels = TextKernels::new(model, &pass, slices, on)?;
    model.logits(&mut kernels, &batch(slices))
}

/// Operations for one pass of a model.
pub struct TextKernels<'a, 'p> {
    pass: &'a Pass,
    slices: &'a [SequenceSlice<'p>],
    heads: Heads,
    dtype: DType,
    device: &'a CudaDevice,
}

impl<'a, 'p> TextKernels<'a, 'p> {
    /// `slices` are those of the pass; they may be empty if each sequence has one query.
    ///
    /// # Errors
    ///
    /// If the device is not a CUDA device.
    pub fn new(
        model: &TextModel,
        pass: &'a Pass,
        slices: &'a [SequenceSlice<'p>],
        on: &'a Device,
    ) -> Result<Self> {
        Ok(Self {
            pass,
            slices,
            heads: model.heads,
            dtype: model.norm.dtype(),
            device: device(on)?,
        })
    }

    /// Attention in f32 of the sequences with more than one query, which has no kernel.
    fn prefill_products(&self, q: &Tensor, layer: usize, out: &Tensor) -> Result<()> {
        let Heads { count, width, .. } = self.heads;
        let q = q.reshape((self.pass.rows, count, width))?;
        let mut first = 0;
        for span in self.slices.iter().map(|slice| slice.span(layer)) {
            if span.queries > 1 {
                let rows = q.narrow(0, first, span.queries)?;
                let seen = attend_products(&rows, &span.blocks, span.keys, true, softmax::weights)?;
                out.slice_set(&seen, 0, first)?;
            }
            first += span.queries;
        }
        Ok(())
    }
}

impl TextOps for TextKernels<'_, '_> {
    fn last_rows(&self) -> Rows {
        Rows::last(self.pass.outputs.1, self.pass.rows)
    }

    fn embed(&mut self, table: &Embedding, batch: &Chunk) -> Result<Tensor> {
        // SAFETY: ids come from the tokenizer or the model, whose table they index, or are 0.
        let text = unsafe { embed(self.pass.ids, self.pass.rows, table.table()?)? };
        let x = overlay(&text, batch.embeddings())?;
        match &batch.vision[..] {
            // Then x is the vision tokens' own memory, which another window may share.
            [(_, only)] if only.embeddings.dim(0)? == batch.len() => x.copy(),
            _ => Ok(x),
        }
    }

    fn add_rms_norm(
        &mut self,
        x: Tensor,
        delta: Option<Tensor>,
        norm: &RmsNorm,
    ) -> Result<(Tensor, Tensor)> {
        let normed = add_rms_norm(&x, delta.as_ref(), norm.weight(), norm.eps())?;
        Ok((x, normed))
    }

    fn project(
        &mut self,
        attention: &Attention,
        x: &Tensor,
        layer: usize,
        rows: Rows,
    ) -> Result<Option<Tensor>> {
        let [q, k, v] = attention.qkv.forward(x)?;
        let norms = [&attention.q_norm, &attention.k_norm];
        let q = rope::write([&q, &k, &v], norms, self.pass, self.heads, layer)?;
        Ok((rows != Rows::None).then_some(q))
    }

    fn attend(&mut self, q: &Tensor, layer: usize, rows: Rows) -> Result<Tensor> {
        // SAFETY: the kernels write all rows: each is a query of a sequence that decodes or has
        // more queries.
        let out = unsafe { unwritten(q.shape(), self.dtype, self.device)? };
        attention::decode(q, self.pass, layer, self.heads, &out)?;
        if self.pass.prefilling.1 > 0 {
            match self.dtype {
                DType::BF16 => attention::prefill(q, self.pass, layer, self.heads, &out)?,
                _ => self.prefill_products(q, layer, &out)?,
            }
        }
        self.select(out, rows)
    }

    fn select(&mut self, x: Tensor, rows: Rows) -> Result<Tensor> {
        let (outputs, count) = self.pass.outputs;
        match rows {
            // SAFETY: outputs are rows of the pass.
            Rows::Outputs => unsafe { embed(outputs, count, &x) },
            Rows::All | Rows::None => Ok(x),
        }
    }

    fn silu_mul(&mut self, gate_up: &MergedLinear<2>, x: &Tensor) -> Result<Tensor> {
        let [gate, up] = gate_up.forward(x)?;
        silu_mul(&gate, &up)
    }

    /// By kernels; where the weights do not lie in one piece, one expert after the other, whose rows
    /// the host reads from the device.
    fn experts(&mut self, block: &SparseMoeBlock, x: &Tensor) -> Result<Tensor> {
        if let Some(experts) = block.on_device() {
            return experts.forward(x);
        }
        let silu_mul = |gate: Tensor, up: &Tensor| silu_mul(&gate, up);
        block.forward(x, |expert, rows| expert.forward(rows, silu_mul))
    }
}
