//! The operations that a forward pass is made of.
//!
//! The order of a pass is written once, in [`TextModel::logits`](super::TextModel) and
//! [`VisionTower::encode`](super::VisionTower). These two traits hide what differs by device: how
//! an operation is computed, where a pass keeps its positions and block tables, and what memory it
//! reuses. An operation covers as much as the largest fused kernel of any device.

use candle_core::{Result, Tensor};

use super::chunk::Chunk;
use super::embedding::Embedding;
use super::experts::SparseMoeBlock;
use super::layer::Attention;
use super::linear::Linear;
use super::merged::MergedLinear;
use super::norm::{LayerNorm, RmsNorm};

/// Rows of a pass that a layer computes after its keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// All rows.
    All,
    /// The rows whose hidden states are wanted.
    Outputs,
    /// None: the pass only fills the cache.
    None,
}

impl Rows {
    /// The rows that the last layer computes of `all` rows, if `outputs` of them are wanted.
    pub(crate) fn last(outputs: usize, all: usize) -> Self {
        match outputs {
            0 => Self::None,
            some if some == all => Self::All,
            _ => Self::Outputs,
        }
    }
}

/// The language model's operations for the sequences of one pass. Hidden states are `[rows,
/// hidden]`, the tokens of all sequences one behind the other.
pub(crate) trait TextOps {
    /// Rows that the last layer computes.
    fn last_rows(&self) -> Rows;

    /// An error if the pass is interrupted.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Rows of `table` for the ids of the pass, with the vision tokens of `batch` in their places.
    /// The result is the caller's alone: what uses it up may write into it.
    fn embed(&mut self, table: &Embedding, batch: &Chunk) -> Result<Tensor>;

    /// `x + delta`, and its RMSNorm. Consumes both.
    fn add_rms_norm(
        &mut self,
        x: Tensor,
        delta: Option<Tensor>,
        norm: &RmsNorm,
    ) -> Result<(Tensor, Tensor)>;

    /// Projects `x` to queries, keys and values, normalises queries and keys by head, rotates them
    /// (interleaved M-RoPE), and writes keys and values of all rows to the caches. Returns the
    /// queries of `rows`, if there are any.
    fn project(
        &mut self,
        attention: &Attention,
        x: &Tensor,
        layer: usize,
        rows: Rows,
    ) -> Result<Option<Tensor>>;

    /// Causal attention over the caches of the queries that [`TextOps::project`] returned for
    /// `rows`: `[rows, heads * head_dim]`.
    fn attend(&mut self, q: &Tensor, layer: usize, rows: Rows) -> Result<Tensor>;

    /// The given rows of `x`, which has all rows.
    fn select(&mut self, x: Tensor, rows: Rows) -> Result<Tensor>;

    /// `silu(gate(x)) * up(x)`.
    fn silu_mul(&mut self, gate_up: &MergedLinear<2>, x: &Tensor) -> Result<Tensor>;

    /// The weighted sum of the results of each row's experts `[rows, hidden]`.
    fn experts(&mut self, block: &SparseMoeBlock, x: &Tensor) -> Result<Tensor>;
}

/// The vision tower's operations for grids of one size. Hidden states are `[patches of all,
/// hidden]`.
pub(crate) trait VisionOps {
    /// An error if the pass is interrupted.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// LayerNorm of `x`.
    fn layer_norm(&mut self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor>;

    /// `x + linear(input)`, and its LayerNorm. Consumes `x`.
    fn add_linear_norm(
        &mut self,
        x: Tensor,
        linear: &Linear,
        input: &Tensor,
        norm: &LayerNorm,
    ) -> Result<(Tensor, Tensor)>;

    /// Attention of the patches of `x` to those of their own grid, with queries and keys rotated by
    /// their rows and columns: `[patches, heads * head_dim]`.
    fn attend(&mut self, qkv: &Linear, x: &Tensor, heads: usize) -> Result<Tensor>;

    /// Tanh-approximated GELU of `linear(x)`.
    fn linear_gelu(&mut self, linear: &Linear, x: &Tensor) -> Result<Tensor>;
}
