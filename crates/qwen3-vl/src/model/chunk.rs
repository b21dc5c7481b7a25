//! The sequences' inputs to a pass.

use candle_core::{Result, Tensor};

use super::attention::Span;
use super::state::SequenceState;
use super::vision::VisionTokens;
use qwen3_vl_core::prompt::Position;

/// Consecutive tokens of one sequence that are not in its cache yet.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// Ids; those of vision tokens are placeholders and are not used.
    pub ids: Vec<u32>,
    /// Position of each token.
    pub positions: Vec<Position>,
    /// Runs of vision tokens, in order: index of the first, and the tokens.
    pub vision: Vec<(usize, VisionTokens)>,
}

impl Chunk {
    /// Tokens in the chunk.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the chunk has no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Runs of vision tokens: index of the first, and the rows that replace the placeholders'
    /// embeddings.
    pub(crate) fn embeddings(&self) -> impl Iterator<Item = (usize, &Tensor)> {
        let runs = self.vision.iter();
        runs.map(|(first, tokens)| (*first, &tokens.embeddings))
    }

    /// Appends the tokens that follow.
    pub fn append(&mut self, next: Self) {
        let shift = self.len();
        let vision = next.vision.into_iter();
        self.vision
            .extend(vision.map(|(first, tokens)| (first + shift, tokens)));
        self.ids.extend(next.ids);
        self.positions.extend(next.positions);
    }

    /// Removes the first tokens, at most `count`, and returns them.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn take(&mut self, count: usize) -> Result<Self> {
        if count >= self.len() {
            return Ok(std::mem::take(self));
        }
        let rest = self.slice(count, self.len())?;
        let first = self.slice(0, count)?;
        *self = rest;
        Ok(first)
    }

    /// Splits the chunk, with its vision tokens and DeepStack rows, into chunks of at most `size`
    /// tokens.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn split(&self, size: usize) -> Result<Vec<Self>> {
        let size = size.max(1);
        let starts = (0..self.len()).step_by(size);
        starts
            .map(|start| self.slice(start, (start + size).min(self.len())))
            .collect()
    }

    fn slice(&self, start: usize, end: usize) -> Result<Self> {
        let mut vision = Vec::new();
        for (first, tokens) in &self.vision {
            let count = tokens.embeddings.dim(0)?;
            let (from, to) = (start.max(*first), end.min(first + count));
            if from < to {
                let rows = |t: &Tensor| t.narrow(0, from - first, to - from);
                vision.push((
                    from - start,
                    VisionTokens {
                        embeddings: rows(&tokens.embeddings)?,
                        deepstack: tokens.deepstack.iter().map(rows).collect::<Result<_>>()?,
                    },
                ));
            }
        }
        Ok(Self {
            ids: self.ids[start..end].to_vec(),
            positions: self.positions[start..end].to_vec(),
            vision,
        })
    }
}

/// The slice of one sequence in a pass.
pub struct SequenceSlice<'a> {
    /// Its next tokens.
    pub chunk: &'a Chunk,
    /// The sequence's state.
    pub state: &'a mut SequenceState,
    /// Number of the chunk's last tokens whose hidden states are wanted.
    pub outputs: usize,
}

/// The chunks of the slices, one behind the other.
pub(crate) fn batch(slices: &[SequenceSlice<'_>]) -> Chunk {
    let mut all = Chunk::default();
    for slice in slices {
        all.append(slice.chunk.clone());
    }
    all
}

impl SequenceSlice<'_> {
    /// The keys and values that its tokens attend to in a layer.
    pub(crate) fn span(&self, layer: usize) -> Span<'_> {
        Span {
            queries: self.chunk.len(),
            keys: self.state.len() + self.chunk.len(),
            blocks: self.state.attention().layer(layer),
        }
    }
}

/// The rows that DeepStack adds behind `layer` `[tokens, hidden]`: zeros except for vision tokens;
/// none if it adds nothing.
pub(crate) fn deepstack_rows(chunk: &Chunk, layer: usize, like: &Tensor) -> Result<Option<Tensor>> {
    let taps: Vec<_> = chunk
        .vision
        .iter()
        .filter_map(|(first, v)| Some((*first, v.deepstack.get(layer)?)))
        .collect();
    if taps.is_empty() {
        return Ok(None);
    }
    overlay(&like.zeros_like()?, taps.into_iter()).map(Some)
}

/// `base` `[tokens, hidden]` with runs of rows replaced.
pub(crate) fn overlay<'a>(
    base: &Tensor,
    runs: impl Iterator<Item = (usize, &'a Tensor)>,
) -> Result<Tensor> {
    let mut parts = Vec::new();
    let mut next = 0;
    for (first, rows) in runs {
        if first > next {
            parts.push(base.narrow(0, next, first - next)?);
        }
        parts.push(rows.clone());
        next = first + rows.dim(0)?;
    }
    if parts.is_empty() {
        return Ok(base.clone());
    }
    let tokens = base.dim(0)?;
    if tokens > next {
        parts.push(base.narrow(0, next, tokens - next)?);
    }
    Tensor::cat(&parts, 0)
}
