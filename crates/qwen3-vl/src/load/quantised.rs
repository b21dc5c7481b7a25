//! Checkpoints that are quantised already, and what cannot be done with them.

use qwen3_vl_core::load::LoadError;

use super::{LoadOptions, check_config, invalid};
use crate::config::Config;
use crate::hub::CheckConfig;
use crate::weights::QuantizeAtLoad;

/// That these options can be applied to a checkpoint: weights are not rounded twice.
pub(super) fn ensure_applies(config: &Config, options: &LoadOptions) -> Result<(), LoadError> {
    match options.quantization {
        QuantizeAtLoad::None => Ok(()),
        _ => ensure_none(config),
    }
}

/// [`check_config`], and that these options can be applied, before weights are downloaded.
pub(super) fn check_for(options: &LoadOptions) -> CheckConfig {
    match options.quantization {
        QuantizeAtLoad::None => check_config,
        _ => check_not_quantised,
    }
}

fn check_not_quantised(json: &[u8]) -> Result<(), LoadError> {
    check_config(json)?;
    ensure_none(&Config::from_json(json).map_err(invalid)?)
}

fn ensure_none(config: &Config) -> Result<(), LoadError> {
    match &config.quantization {
        None => Ok(()),
        Some(found) => Err(LoadError::Invalid(format!(
            "the weights are quantised already ({found}): leave the property quantization unset, \
             or use the checkpoint that is not quantised"
        ))),
    }
}
