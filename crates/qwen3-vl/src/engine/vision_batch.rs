//! Vision inputs on their way through the encoder. A GPU encodes them beside what else it does, and
//! nobody waits for it; on the CPU they are through at once.

use std::time::{Duration, Instant};

use super::runner::{Runner, StepError};
use super::vision_cache::Encoded;
use crate::model::PendingEncode;
use qwen3_vl_core::frames::VisionInput;

/// Inputs that are encoded together.
pub struct VisionBatch {
    /// Those inputs.
    pub inputs: Vec<VisionInput>,
    /// Their tokens, once they are there.
    pub pending: Box<dyn PendingEncode>,
    /// Rows and columns of patches of each.
    pub patches: (u32, u32),
    /// When it began.
    pub since: Instant,
}

/// A vision_batch that is over.
pub struct EncodedBatch {
    /// Its inputs.
    pub inputs: Vec<VisionInput>,
    /// How long it took.
    pub time: Duration,
    /// Why there are no tokens, if there are none.
    pub failed: Option<StepError>,
}

impl Runner {
    /// Whether inputs are being encoded.
    pub fn is_encoding(&self) -> bool {
        !self.encoding.is_empty()
    }

    /// Whether so many are that no more can be.
    pub fn is_full(&self) -> bool {
        self.encoding.len() >= self.config.vision_batches
    }

    /// The first vision_batch, if it is over or `wait` says to wait for it. Its tokens are in the
    /// cache then.
    pub fn poll_encoded(&mut self, wait: bool) -> Option<EncodedBatch> {
        if !self.encoding.front()?.pending.is_ready() && !wait {
            return None;
        }
        let vision_batch = self.encoding.pop_front()?;
        let (inputs, since) = (vision_batch.inputs.clone(), vision_batch.since);
        // Not before it is over, so that the time that it took is known.
        let waited = vision_batch.pending.wait().map_err(StepError::from);
        let failed = match waited.and_then(|()| self.finish(vision_batch)) {
            Ok(encoded) => {
                for (input, encoded) in std::iter::zip(&inputs, encoded) {
                    self.recent.keep(input.clone(), encoded);
                }
                None
            }
            Err(error) => Some(error),
        };
        Some(EncodedBatch {
            inputs,
            time: since.elapsed(),
            failed,
        })
    }

    /// The tokens of each input of a vision_batch, for the language model.
    pub(super) fn finish(&mut self, vision_batch: VisionBatch) -> Result<Vec<Encoded>, StepError> {
        let merge = self.parts.model.config.vision_config.spatial_merge_size as u32;
        let tokens = vision_batch.pending.finish()?;
        let patches = vision_batch.patches;
        let each = tokens.split(vision_batch.inputs.len())?.into_iter();
        let encoded = each.map(|tokens| Encoded {
            tokens,
            merged: (patches.0 / merge, patches.1 / merge),
            patches,
        });
        Ok(encoded.collect())
    }
}
