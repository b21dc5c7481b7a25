//! The operations that a forward pass is made of.
//!
//! The order of a pass is written once, in [`TextModel::logits`](super::TextModel) and
//! [`VisionTower::encode`](super::VisionTower). What differs by device is behind these two traits: how
//! each operation is computed, where a pass has its positions and block tables, and what memory it
//! reuses. An operation is as large as the largest piece that one kernel does at once somewhere.

use candle_core::{Result, Tensor};

use super::chunk::Chunk;
use super::embedding::Embedding;
use super::layer::Attention;
use super::linear::Linear;
use super::merged::MergedLinear;
use super::norm::{LayerNorm, RmsNorm};

/// Rows of a pass that a layer computes behind its keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// All of them.
    All,
    /// Those whose hidden states are asked for.
    Outputs,
    /// None: the pass only fills the cache.
    None,
}

impl Rows {
    /// What the last layer of a pass of `all` rows computes, if `outputs` of them are asked for.
    pub(crate) fn last(outputs: usize, all: usize) -> Self {
        match outputs {
            0 => Self::None,
            some if some == all => Self::All,
            _ => Self::Outputs,
        }
    }
}

/// The language model's operations for the sequences of one pass. Hidden states are `[rows, hidden]`, the
/// tokens of all sequences one behind the other.
pub(crate) trait TextOps {
    /// Rows that the last layer computes.
    fn last_rows(&self) -> Rows;

    /// An error if the pass is to end early.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Rows of `table` for the ids of the pass, with the vision tokens of `batch` in their places. The
    /// result is the caller's alone: what uses it up may write into it.
    fn embed(&mut self, table: &Embedding, batch: &Chunk) -> Result<Tensor>;

    /// `x + delta`, and its RMSNorm. Both are used up.
    fn add_rms_norm(
        &mut self,
        x: Tensor,
        delta: Option<Tensor>,
        norm: &RmsNorm,
    ) -> Result<(Tensor, Tensor)>;

    /// Queries, keys and values of `x`: norms of queries and keys by head, rotation (interleaved M-RoPE),
    /// keys and values of all rows into the caches. Gives the queries of `rows`, if there are any.
    fn project(
        &mut self,
        attention: &Attention,
        x: &Tensor,
        layer: usize,
        rows: Rows,
    ) -> Result<Option<Tensor>>;

    /// Causal attention of the queries that [`TextOps::project`] gave for `rows` over the caches:
    /// `[rows, heads * head_dim]`.
    fn attend(&mut self, q: &Tensor, layer: usize, rows: Rows) -> Result<Tensor>;

    /// Those rows of `x`, which has all.
    fn select(&mut self, x: Tensor, rows: Rows) -> Result<Tensor>;

    /// `silu(gate(x)) * up(x)`.
    fn silu_mul(&mut self, gate_up: &MergedLinear<2>, x: &Tensor) -> Result<Tensor>;
}

/// The vision tower's operations for grids of one size. Hidden states are `[patches of all, hidden]`.
pub(crate) trait VisionOps {
    /// An error if the pass is to end early.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// LayerNorm of the rows of `x`.
    fn layer_norm(&mut self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor>;

    /// `x + linear(input)`, and its LayerNorm. `x` is used up.
    fn add_linear_norm(
        &mut self,
        x: Tensor,
        linear: &Linear,
        input: &Tensor,
        norm: &LayerNorm,
    ) -> Result<(Tensor, Tensor)>;

    /// Attention of the patches of `x` to those of their own grid, with queries and keys rotated by their
    /// rows and columns: `[patches, heads * head_dim]`.
    fn attend(&mut self, qkv: &Linear, x: &Tensor, heads: usize) -> Result<Tensor>;

    /// Tanh-approximated GELU of `linear(x)`.
    fn linear_gelu(&mut self, linear: &Linear, x: &Tensor) -> Result<Tensor>;
}
