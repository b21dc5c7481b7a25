//! Samples the next tokens of sequences from their logits.

use candle_core::Tensor;

use super::runner::{Runner, StepError};
use super::sequence::Sequence;
use crate::model::Candidates;
use crate::sampling::Logits;

impl Runner {
    /// Chooses the next token of each sequence from its row of `logits` `[sequences, vocabulary]`.
    ///
    /// # Errors
    ///
    /// See [`StepError`].
    pub(super) fn sample(
        &mut self,
        logits: &Tensor,
        sequences: Vec<&mut Sequence>,
    ) -> Result<(), StepError> {
        let needed: Option<Vec<usize>> = sequences
            .iter()
            .map(|sequence| sequence.candidates_needed())
            .collect();
        let most = needed.and_then(|needed| needed.into_iter().max());
        let penalties = || {
            let rows = sequences.iter().zip(0..);
            let of_row = |(sequence, row): (&&mut Sequence, u32)| {
                let penalties = sequence.penalties().into_iter();
                penalties.map(move |penalty| (row, penalty))
            };
            rows.flat_map(of_row).collect()
        };
        let model = &self.parts.model;
        let candidates = self.executor.candidates(model, logits, most, &penalties)?;
        let (context, stop) = (self.limits().context, &self.parts.stop);
        let tokenizer = &self.parts.tokenizer;
        match candidates {
            Candidates::Best(rows) => {
                for (sequence, best) in sequences.into_iter().zip(rows) {
                    let wanted = &best[..sequence.candidates_needed().unwrap_or(1).min(best.len())];
                    sequence.sample(Logits::Best(wanted), context, stop, tokenizer)?;
                }
            }
            Candidates::All(rows) => {
                for (sequence, mut logits) in sequences.into_iter().zip(rows) {
                    sequence.sample(Logits::All(&mut logits), context, stop, tokenizer)?;
                }
            }
        }
        Ok(())
    }
}
