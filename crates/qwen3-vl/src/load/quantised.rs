//! Checkpoints that are quantised already, and what cannot be done with them.

use qwen3_vl_core::load::LoadError;

use super::{LoadOptions, check_config, invalid};
use crate::config::Config;
use crate::device::DeviceChoice;
use crate::hub::CheckConfig;
use crate::weights::QuantizeAtLoad;

const ROUNDED: &str = "leave the property quantization unset, or use the checkpoint that is not \
                       quantised";
const ON_GPU: &str = "which cannot run on a GPU yet, use device=cpu";

/// That these options can be applied to a checkpoint.
pub(super) fn ensure_applies(config: &Config, options: &LoadOptions) -> Result<(), LoadError> {
    let gpu = matches!(options.device.resolved(), DeviceChoice::Cuda(_));
    if gpu && options.quantization == QuantizeAtLoad::Fp8 {
        let text =
            "quantization=fp8 cannot run on a GPU yet: use device=cpu, or another quantization";
        return Err(LoadError::Invalid(text.into()));
    }
    obstacle(options).map_or(Ok(()), |advice| ensure_none(config, advice))
}

/// [`check_config`], and that these options can be applied, before weights are downloaded.
pub(super) fn check_for(options: &LoadOptions) -> CheckConfig {
    match obstacle(options) {
        None => check_config,
        Some(ROUNDED) => |json| check_not_quantised(json, ROUNDED),
        Some(_) => |json| check_not_quantised(json, ON_GPU),
    }
}

/// What a quantised checkpoint cannot have, if these options ask for that.
fn obstacle(options: &LoadOptions) -> Option<&'static str> {
    match (options.quantization, options.device.resolved()) {
        (QuantizeAtLoad::None, DeviceChoice::Cuda(_)) => Some(ON_GPU),
        (QuantizeAtLoad::None, _) => None,
        _ => Some(ROUNDED),
    }
}

fn check_not_quantised(json: &[u8], advice: &str) -> Result<(), LoadError> {
    check_config(json)?;
    ensure_none(&Config::from_json(json).map_err(invalid)?, advice)
}

fn ensure_none(config: &Config, advice: &str) -> Result<(), LoadError> {
    match &config.quantization {
        None => Ok(()),
        Some(found) => Err(LoadError::Invalid(format!(
            "the weights are quantised already ({found}): {advice}"
        ))),
    }
}
