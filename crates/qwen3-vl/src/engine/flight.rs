//! Vision inputs on their way through the encoder. A GPU encodes them beside what else it does, and nobody
//! waits for it; on the CPU they are through at once.

use std::time::{Duration, Instant};

use super::runner::{Runner, StepError};
use super::vision_cache::Encoded;
use crate::model::VisionTokens;
use qwen3_vl_core::frames::VisionInput;

/// Inputs that are encoded together.
pub struct Flight {
    /// Those inputs.
    pub inputs: Vec<VisionInput>,
    /// Their tokens, once they are there.
    pub tokens: VisionTokens,
    /// Rows and columns of patches of each.
    pub patches: (u32, u32),
    /// When it began.
    pub since: Instant,
    #[cfg(feature = "cuda")]
    pub(super) mark: Option<crate::cuda::handover::Mark>,
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

/// Flights at a time: one that the device works on, and the next.
const MOST: usize = 2;

impl Flight {
    #[cfg(feature = "cuda")]
    fn is_over(&self) -> bool {
        // One whose device has failed is over: what comes next says so.
        self.mark
            .as_ref()
            .is_none_or(crate::cuda::handover::Mark::is_reached)
    }

    #[cfg(not(feature = "cuda"))]
    #[allow(clippy::unused_self)]
    fn is_over(&self) -> bool {
        true
    }

    /// Waits until it is over, so that the time that it took is known.
    #[cfg(feature = "cuda")]
    fn wait(&self) -> candle_core::Result<()> {
        let mark = self.mark.as_ref();
        mark.map_or(Ok(()), crate::cuda::handover::Mark::reach)
    }

    #[cfg(not(feature = "cuda"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    fn wait(&self) -> candle_core::Result<()> {
        Ok(())
    }
}

impl Runner {
    /// Whether inputs are being encoded.
    pub fn flies(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Whether so many are that no more can be.
    pub fn is_full(&self) -> bool {
        self.flights.len() >= MOST
    }

    /// The first flight, if it is over or `wait` says to wait for it. Its tokens are in the cache then.
    pub fn land(&mut self, wait: bool) -> Option<Landing> {
        if !self.flights.front()?.is_over() && !wait {
            return None;
        }
        let flight = self.flights.pop_front()?;
        let (inputs, since) = (flight.inputs.clone(), flight.since);
        let waited = flight.wait().map_err(StepError::from);
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
        #[cfg(feature = "cuda")]
        let tokens = match &flight.mark {
            Some(mark) => mark.hand_over(&flight.tokens, self.parts.model.kv.device())?,
            None => flight.tokens,
        };
        #[cfg(not(feature = "cuda"))]
        let tokens = flight.tokens;
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
