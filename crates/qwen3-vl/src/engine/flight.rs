//! Vision inputs on their way through the encoder. A GPU encodes them beside what else it does, and nobody
//! waits for it; on the CPU they are through at once.

use std::time::{Duration, Instant};

use super::runner::{Runner, StepError};
use super::vision_cache::Encoded;
use crate::model::PendingEncode;
use qwen3_vl_core::frames::VisionInput;

/// Inputs that are encoded together.
pub struct Flight {
    /// Those inputs.
    pub inputs: Vec<VisionInput>,
    /// Their tokens, once they are there.
    pub pending: Box<dyn PendingEncode>,
    /// Rows and columns of patches of each.
    pub patches: (u32, u32),
    /// When it began.
    pub since: Instant,
}

/// A flight that is over.
pub struct Landing {
    /// Its inputs.
    pub inputs: Vec<VisionInput>,
    /// How long it took.
    pub time: Duration,
    /// Why there are no tokens, if there are none.
    pub failed: Option<StepError>,
}

impl Runner {
    /// Whether inputs are being encoded.
    pub fn flies(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Whether so many are that no more can be.
    pub fn is_full(&self) -> bool {
        self.flights.len() >= self.config.vision_batches
    }

    /// The first flight, if it is over or `wait` says to wait for it. Its tokens are in the cache then.
    pub fn land(&mut self, wait: bool) -> Option<Landing> {
        if !self.flights.front()?.pending.is_ready() && !wait {
            return None;
        }
        let flight = self.flights.pop_front()?;
        let (inputs, since) = (flight.inputs.clone(), flight.since);
        // Not before it is over, so that the time that it took is known.
        let waited = flight.pending.wait().map_err(StepError::from);
        let failed = match waited.and_then(|()| self.finish(flight)) {
            Ok(encoded) => {
                for (input, encoded) in std::iter::zip(&inputs, encoded) {
                    self.recent.keep(input.clone(), encoded);
                }
                None
            }
            Err(error) => Some(error),
        };
        Some(Landing {
            inputs,
            time: since.elapsed(),
            failed,
        })
    }

    /// The tokens of each input of a flight, for the language model.
    pub(super) fn finish(&mut self, flight: Flight) -> Result<Vec<Encoded>, StepError> {
        let merge = self.parts.model.config.vision_config.spatial_merge_size as u32;
        let tokens = flight.pending.finish()?;
        let patches = flight.patches;
        let each = tokens.split(flight.inputs.len())?.into_iter();
        let encoded = each.map(|tokens| Encoded {
            tokens,
            merged: (patches.0 / merge, patches.1 / merge),
            patches,
        });
        Ok(encoded.collect())
    }
}
