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

/// For the sequences of one pass.
pub(super) struct TensorText<'a, 'p> {
    parts: &'a mut [SequenceSlice<'p>],
    flag: &'a Flag,
    reused: &'a mut (Reused, Reused),
    rope: RopeTable,
    dtype: DType,
    last: Rows,
    /// Indices of the rows that are asked for (u32), if they are some of all.
    outputs: Option<Tensor>,
}

impl<'a, 'p> TensorText<'a, 'p> {
    /// `all` is what the parts bring, one behind the other.
    pub(super) fn new(
        model: &TextModel,
        parts: &'a mut [SequenceSlice<'p>],
        all: &Chunk,
        flag: &'a Flag,
        reused: &'a mut (Reused, Reused),
    ) -> Result<Self> {
        let (mut outputs, mut end) = (Vec::new(), 0);
        for part in &*parts {
            end += part.chunk.len();
            outputs.extend((end - part.outputs) as u32..end as u32);
        }
        let (dtype, device) = (model.norm.dtype(), model.embeddings.device());
        let last = Rows::last(outputs.len(), all.len());
        let outputs = match last {
            Rows::Outputs => Some(Tensor::new(outputs.as_slice(), device)?),
            Rows::All | Rows::None => None,
        };
        Ok(Self {
            rope: model.rope.table(&all.positions, dtype, device)?,
            parts,
            flag,
            reused,
            dtype,
            last,
            outputs,
        })
    }

    /// Indices of those rows; none if they are all.
    fn indices(&self, rows: Rows) -> Option<&Tensor> {
        self.outputs.as_ref().filter(|_| rows == Rows::Outputs)
    }

    /// `[tokens, heads * head_dim]` by head, and normalised.
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
            // Into the memory of what is added: x may be another window's vision tokens.
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
        for SequenceSlice { chunk, state, .. } in &mut *self.parts {
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
        let spans = self.parts.iter().map(|part| Span {
            queries: match rows {
                Rows::All => part.chunk.len(),
                Rows::Outputs => part.outputs,
                Rows::None => 0,
            },
            ..part.span(layer)
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

/// `[tokens, heads * head_dim]` by head, of the width of `norm`.
fn by_head(x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
    x.reshape((x.dim(0)?, (), norm.weight().elem_count()))
}
