//! The language model's operations.

use candle_core::{DType, Result, Tensor};

use super::super::activation::{add, silu_mul};
use super::super::attention::{Span, attend_all};
use super::super::chunk::{Chunk, SequenceSlice, overlay};
use super::super::embedding::Embedding;
use super::super::layer::Attention;
use super::super::linear::Reused;
use super::super::merged::MergedLinear;
use super::super::norm::RmsNorm;
use super::super::ops::{Rows, TextOps};
use super::super::rope::RopeTable;
use super::super::text::TextModel;
use super::check;
use crate::cpu::pool::Flag;

/// Operations for the sequences of one pass.
pub(super) struct TensorText<'a, 'p> {
    slices: &'a mut [SequenceSlice<'p>],
    flag: &'a Flag,
    reused: &'a mut (Reused, Reused),
    rope: RopeTable,
    dtype: DType,
    last: Rows,
    /// Indices of the wanted rows (u32), if they are neither all nor none.
    outputs: Option<Tensor>,
}

impl<'a, 'p> TensorText<'a, 'p> {
    /// `all` is the slices' chunks, one behind the other.
    pub(super) fn new(
        model: &TextModel,
        slices: &'a mut [SequenceSlice<'p>],
        all: &Chunk,
        flag: &'a Flag,
        reused: &'a mut (Reused, Reused),
    ) -> Result<Self> {
        let (mut outputs, mut end) = (Vec::new(), 0);
        for slice in &*slices {
            end += slice.chunk.len();
            outputs.extend((end - slice.outputs) as u32..end as u32);
        }
        let (dtype, device) = (model.norm.dtype(), model.embeddings.device());
        let last = Rows::last(outputs.len(), all.len());
        let outputs = match last {
            Rows::Outputs => Some(Tensor::new(outputs.as_slice(), device)?),
            Rows::All | Rows::None => None,
        };
        Ok(Self {
            rope: model.rope.table(&all.positions, dtype, device)?,
            slices,
            flag,
            reused,
            dtype,
            last,
            outputs,
        })
    }

    /// Indices of `rows`; none if they are all rows.
    fn indices(&self, rows: Rows) -> Option<&Tensor> {
        self.outputs.as_ref().filter(|_| rows == Rows::Outputs)
    }

    /// Splits `[tokens, heads * head_dim]` by head and normalises each.
    fn norm_heads(x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        norm.forward(&by_head(x, norm)?)
    }
}

impl TextOps for TensorText<'_, '_> {
    fn last_rows(&self) -> Rows {
        self.last
    }

    fn check(&self) -> Result<()> {
        check(self.flag)
    }

    fn embed(&mut self, table: &Embedding, batch: &Chunk) -> Result<Tensor> {
        let text = table.lookup(&batch.ids)?.to_dtype(self.dtype)?;
        overlay(&text, batch.embeddings())
    }

    fn add_rms_norm(
        &mut self,
        x: Tensor,
        delta: Option<Tensor>,
        norm: &RmsNorm,
    ) -> Result<(Tensor, Tensor)> {
        let sum = match delta {
            // Writes into delta: x may share memory with another window's vision tokens.
            Some(delta) => add(delta, &x)?,
            None => x,
        };
        let normed = norm.forward(&sum)?;
        Ok((sum, normed))
    }

    fn project(
        &mut self,
        attention: &Attention,
        x: &Tensor,
        layer: usize,
        rows: Rows,
    ) -> Result<Option<Tensor>> {
        let Attention { q_norm, k_norm, .. } = attention;
        let [q, k, v] = attention.qkv.parts();
        let k = Self::norm_heads(&k.forward(x)?, k_norm)?;
        let (k, v) = (self.rope.rotate(&k)?, by_head(&v.forward(x)?, k_norm)?);
        let mut first = 0;
        for SequenceSlice { chunk, state, .. } in &mut *self.slices {
            let of = |all: &Tensor| all.narrow(0, first, chunk.len());
            state.attention_mut().write(layer, &of(&k)?, &of(&v)?)?;
            first += chunk.len();
        }
        let q = match (rows, self.indices(rows)) {
            (Rows::None, _) => return Ok(None),
            (_, None) => {
                let q = Self::norm_heads(&q.forward(x)?, q_norm)?;
                self.rope.rotate(&q)?
            }
            (_, Some(indices)) => {
                let x = x.index_select(indices, 0)?;
                let q = Self::norm_heads(&q.forward(&x)?, q_norm)?;
                self.rope.select(indices)?.rotate(&q)?
            }
        };
        Ok(Some(q))
    }

    fn attend(&mut self, q: &Tensor, layer: usize, rows: Rows) -> Result<Tensor> {
        let spans = self.slices.iter().map(|slice| Span {
            queries: match rows {
                Rows::All => slice.chunk.len(),
                Rows::Outputs => slice.outputs,
                Rows::None => 0,
            },
            ..slice.span(layer)
        });
        attend_all(q, &spans.collect::<Vec<_>>())
    }

    fn select(&mut self, x: Tensor, rows: Rows) -> Result<Tensor> {
        match self.indices(rows) {
            Some(indices) => x.index_select(indices, 0),
            None => Ok(x),
        }
    }

    fn silu_mul(&mut self, gate_up: &MergedLinear<2>, x: &Tensor) -> Result<Tensor> {
        let [gate, up] = gate_up.parts();
        let gate = gate.forward_into(x, &mut self.reused.0)?;
        let up = up.forward_into(x, &mut self.reused.1)?;
        silu_mul(gate, &up)
    }
}

/// Splits `[tokens, heads * head_dim]` by heads of the width of `norm`.
fn by_head(x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
    x.reshape((x.dim(0)?, (), norm.weight().elem_count()))
}
