//! Batches of vision inputs that are being encoded. A GPU encodes them on a stream of its own while
//! the engine goes on; the CPU has encoded them when the call returns.

use std::time::{Duration, Instant};

use super::runner::{Runner, StepError};
use super::vision_cache::Encoded;
use crate::model::PendingEncode;
use qwen3_vl_core::frames::VisionInput;

/// Inputs that are encoded together.
pub struct VisionBatch {
    /// The inputs.
    pub inputs: Vec<VisionInput>,
    /// Their tokens, once they are ready.
    pub pending: Box<dyn PendingEncode>,
    /// Rows and columns of patches of each input.
    pub patches: (u32, u32),
    /// When encoding began.
    pub since: Instant,
}

/// A batch that has been encoded or has failed.
pub struct EncodedBatch {
    /// The inputs.
    pub inputs: Vec<VisionInput>,
    /// Time from its start to its end.
    pub time: Duration,
    /// The error, if it failed.
    pub failed: Option<StepError>,
}

impl Runner {
    /// Whether batches are being encoded.
    pub fn is_encoding(&self) -> bool {
        !self.encoding.is_empty()
    }

    /// Whether no further batch can be started.
    pub fn is_full(&self) -> bool {
        self.encoding.len() >= self.config.vision_batches
    }

    /// Takes the oldest batch if it is ready, or waits for it if `wait`. Its tokens are in the
    /// vision cache then.
    pub fn poll_encoded(&mut self, wait: bool) -> Option<EncodedBatch> {
        if !self.encoding.front()?.pending.is_ready() && !wait {
            return None;
        }
        let vision_batch = self.encoding.pop_front()?;
        let (inputs, since) = (vision_batch.inputs.clone(), vision_batch.since);
        // Waits for the device first, so that the measured time is the batch's.
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

    /// The tokens of each input of a batch, for the language model.
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
