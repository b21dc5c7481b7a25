//! What a caller looks at before large files come.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::CheckConfig;
use crate::weights::WeightFile;
use qwen3_vl_core::load::LoadError;

/// Looks at weights by their headers. The folder has the small files; of the weights, any piece can
/// be read.
pub(crate) type CheckWeights =
    Arc<dyn Fn(&Path, Vec<WeightFile>) -> Result<(), LoadError> + Send + Sync>;

/// Checks of a model before its large files come: an error of one ends the download.
#[derive(Clone)]
pub struct Checks {
    /// Of `config.json`, before all other files.
    pub(super) config: CheckConfig,
    /// Of all small files and the headers of the weights; of GGUF files, first the vision tower.
    pub(super) weights: CheckWeights,
}

impl Checks {
    pub(crate) fn new(config: CheckConfig, weights: CheckWeights) -> Self {
        Self { config, weights }
    }

    /// Of `config.json` alone.
    pub(super) fn of_config(config: CheckConfig) -> Self {
        Self::new(config, Arc::new(|_, _| Ok(())))
    }
}

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checks").finish_non_exhaustive()
    }
}
