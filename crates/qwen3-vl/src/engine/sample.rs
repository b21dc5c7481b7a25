//! From scores to the next tokens of sequences.

use candle_core::{DType, Tensor};

use super::runner::{Runner, StepError};
use super::sequence::Sequence;
use crate::sampling::Scores;

impl Runner {
    /// Chooses the next token of each sequence from its row of `scores` `[sequences, vocabulary]`.
    ///
    /// # Errors
    ///
    /// See [`StepError`].
    pub(super) fn sample(
        &mut self,
        scores: &Tensor,
        sequences: Vec<&mut Sequence>,
    ) -> Result<(), StepError> {
        let (context, stop) = (self.limits().context, &self.parts.stop);
        let tokenizer = &self.parts.tokenizer;
        #[cfg(feature = "cuda")]
        if let Some(best) = on_device::best(scores, &sequences, &mut self.workspace.cuda)? {
            for (sequence, best) in sequences.into_iter().zip(best) {
                let wanted = &best[..sequence.wants().unwrap_or(1).min(best.len())];
                sequence.sample(Scores::Best(wanted), context, stop, tokenizer)?;
            }
            return Ok(());
        }
        let rows = scores.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        for (sequence, mut scores) in sequences.into_iter().zip(rows) {
            sequence.sample(Scores::All(&mut scores), context, stop, tokenizer)?;
        }
        Ok(())
    }
}

/// On a GPU: only what tokens are chosen from leaves it.
#[cfg(feature = "cuda")]
mod on_device {
    use candle_core::{DType, Result, Tensor};

    use crate::cuda::choice::{self, Best};
    use crate::cuda::knows;
    use crate::cuda::workspace::Workspace;
    use crate::engine::sequence::Sequence;

    /// The largest scores of each sequence, as many as all of them want; none if one may want any.
    pub fn best(
        scores: &Tensor,
        sequences: &[&mut Sequence],
        workspace: &mut Workspace,
    ) -> Result<Option<Best>> {
        let wants: Option<Vec<usize>> = sequences.iter().map(|sequence| sequence.wants()).collect();
        let most = wants.and_then(|wants| wants.into_iter().max());
        let Some(most) = most.filter(|k| *k <= choice::MOST && *k <= scores.dims()[1]) else {
            return Ok(None);
        };
        if !scores.device().is_cuda() || !knows(scores.dtype()) {
            return Ok(None);
        }
        let penalties: Vec<_> = sequences
            .iter()
            .enumerate()
            .flat_map(|(row, sequence)| {
                let penalties = sequence.penalties().into_iter();
                penalties.map(move |penalty| (row as u32, penalty))
            })
            .collect();
        if penalties.is_empty() {
            return choice::top_k(scores, most).map(Some);
        }
        // A copy: the scores may be those of a recorded step.
        let scores = match scores.dtype() {
            DType::F32 => scores.copy()?,
            _ => scores.to_dtype(DType::F32)?,
        };
        choice::penalise(&scores, &penalties, &mut workspace.staging)?;
        choice::top_k(&scores, most).map(Some)
    }
}
