//! What sequences bring to a pass.

use candle_core::{Result, Tensor};

use super::attention::Span;
use super::state::SequenceState;
use super::vision::VisionTokens;
use qwen3_vl_core::prompt::Position;

/// Consecutive tokens of one sequence on their way into its cache.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// Ids; what stands at the place of a vision token does not matter.
    pub ids: Vec<u32>,
    /// Position of each token.
    pub positions: Vec<Position>,
    /// Runs of vision tokens: index of the first, and the tokens; in order.
    pub vision: Vec<(usize, VisionTokens)>,
}

impl Chunk {
    /// Tokens in the chunk.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the chunk holds nothing.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Runs of vision tokens: index of the first, and what stands in place of their embeddings.
    pub(crate) fn embeddings(&self) -> impl Iterator<Item = (usize, &Tensor)> {
        let runs = self.vision.iter();
        runs.map(|(first, tokens)| (*first, &tokens.embeddings))
    }

    /// Adds the tokens that follow.
    pub fn append(&mut self, next: Self) {
        let shift = self.len();
        let vision = next.vision.into_iter();
        self.vision
            .extend(vision.map(|(first, tokens)| (first + shift, tokens)));
        self.ids.extend(next.ids);
        self.positions.extend(next.positions);
    }

    /// Takes the first tokens, at most `count`, out of the chunk.
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

    /// Cuts the chunk into pieces of at most `size` tokens, vision tokens and their DeepStack rows
    /// with it.
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

/// What one sequence has in a pass.
pub struct SequenceSlice<'a> {
    /// Its next tokens.
    pub chunk: &'a Chunk,
    /// Its states.
    pub state: &'a mut SequenceState,
    /// How many hidden states of the chunk are asked for: those of its last tokens.
    pub outputs: usize,
}

/// What parts bring, one behind the other.
pub(crate) fn batch(parts: &[SequenceSlice<'_>]) -> Chunk {
    let mut all = Chunk::default();
    for part in parts {
        all.append(part.chunk.clone());
    }
    all
}

impl SequenceSlice<'_> {
    /// What its tokens see in a layer.
    pub(crate) fn span(&self, layer: usize) -> Span<'_> {
        Span {
            queries: self.chunk.len(),
            keys: self.state.len() + self.chunk.len(),
            blocks: self.state.attention().layer(layer),
        }
    }
}

/// What DeepStack adds behind `layer`: zeros but for the vision tokens; none if there is nothing.
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
