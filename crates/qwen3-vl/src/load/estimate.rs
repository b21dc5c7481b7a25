//! Estimates the memory that a load will need, and refuses one that cannot succeed.

use candle_core::{DType, Device};
use qwen3_vl_core::KvMemory;
use qwen3_vl_core::load::LoadError;

use super::files::Files;
use super::fit::{Needs, Shortage};
use super::{LoadOptions, invalid};
use crate::config::Config;
use crate::device::{DeviceChoice, free_memory};
use crate::engine::config::EngineConfig;
use crate::model::footprint::weights_bytes;
use crate::model::kv_cache::{BLOCK_TOKENS, KvPool};
use crate::model::vision::bytes_per_token;
use crate::weights::{QuantizeAtLoad, Weights};

/// Tokens of the smallest useful KV cache: a window of 8 frames of 640x480 with an answer of 256
/// tokens, which is what the element's defaults make.
pub(super) const SMALLEST_WINDOW: usize = 2048;

/// What a model of this configuration and these files needs, with its layers rounded like that.
///
/// # Errors
///
/// Those of loading it, as far as headers tell.
fn needs(
    config: &Config,
    weights: &Weights,
    kv_memory: Option<KvMemory>,
    rounded: QuantizeAtLoad,
) -> Result<Needs, LoadError> {
    let (dtype, device) = (weights.dtype(), weights.device());
    Ok(Needs {
        // First: it compares the configuration, which may say anything, with the files.
        weights: weights_bytes(config, weights, rounded).map_err(invalid)?,
        kv_cache: match kv_memory {
            Some(KvMemory::Bytes(bytes)) => bytes,
            _ => smallest_kv_cache(config, dtype),
        },
        vision: vision_batch(config, dtype, device),
    })
}

/// Bytes of the KV cache for [`SMALLEST_WINDOW`].
pub(super) fn smallest_kv_cache(config: &Config, dtype: DType) -> u64 {
    let c = &config.text_config;
    let shape = (c.num_hidden_layers, c.num_key_value_heads, c.head_dim);
    let block = KvPool::new(shape, dtype, Device::Cpu).block_bytes() as u64;
    block.saturating_mul(SMALLEST_WINDOW.div_ceil(BLOCK_TOKENS) as u64)
}

/// Bytes to encode the most frames that the engine encodes together.
fn vision_batch(config: &Config, dtype: DType, device: &Device) -> u64 {
    let c = &config.vision_config;
    let merge = c.spatial_merge_size.pow(2).max(1) as u64;
    let tokens = u64::from(EngineConfig::of(device).vision_batch_patches) / merge;
    bytes_per_token(c, dtype).saturating_mul(tokens)
}

/// Checks that the model `name` fits into the free memory of the weights' device.
///
/// # Errors
///
/// [`LoadError::Unavailable`] with all sizes and what would fit; [`LoadError::Invalid`] if the
/// headers of the files already show that they cannot be loaded.
pub(super) fn ensure_fits(
    name: &str,
    files: &Files,
    config: &Config,
    weights: &Weights,
    options: &LoadOptions,
) -> Result<(), LoadError> {
    let of = |kv_memory, rounded| needs(config, weights, kv_memory, rounded);
    let needs = of(options.kv_memory, options.quantization)?;
    let Some(free) = free_memory(weights.device()) else {
        return Ok(());
    };
    let mut others = Vec::new();
    if needs.total() > free {
        if let Some(KvMemory::Bytes(_)) = options.kv_memory {
            let smallest = of(None, options.quantization)?;
            others.push(("a smaller kv-memory".into(), smallest, free));
        }
        let can_round = config.quantization.is_none() && files.can_be_rounded();
        let possible = |rounded: &QuantizeAtLoad| can_round && *rounded != options.quantization;
        for rounded in QuantizeAtLoad::ALL.into_iter().filter(possible) {
            if let Ok(needs) = of(options.kv_memory, rounded) {
                others.push((format!("quantization={}", rounded.as_str()), needs, free));
            }
        }
        others.extend(elsewhere(weights.device(), needs));
    }
    let device = match (weights.device(), options.device.resolved()) {
        (Device::Cpu, _) => "the CPU".into(),
        (_, DeviceChoice::Cuda(n)) => format!("cuda:{n}"),
        _ => "the GPU".into(),
    };
    match Shortage::of((name, &device), needs, free, others) {
        None => Ok(()),
        Some(shortage) => Err(LoadError::Unavailable(shortage.to_string())),
    }
}

/// The other kind of device, if there is one, on which about as much is needed.
fn elsewhere(device: &Device, needs: Needs) -> Option<(String, Needs, u64)> {
    let (name, other) = match device {
        Device::Cpu => ("device=cuda", DeviceChoice::Cuda(0).open().ok()?),
        _ => ("device=cpu", Device::Cpu),
    };
    Some((name.into(), needs, free_memory(&other)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use qwen3_vl_core::frames::{Budget, Size};

    use super::*;

    /// By the same rules as the engine: pairs of frames, timestamps, template and answer.
    #[test]
    fn the_smallest_window_is_that_of_the_defaults() {
        let budget = Budget::HfVideo {
            min_pixels: 4096,
            max_pixels: 25_165_824,
            cap_per_frame: true,
        };
        let source = Size {
            width: 640,
            height: 480,
        };
        let (size, _) = budget.resize(8, source, 32, 2).unwrap();
        let pair = size.width as usize / 32 * (size.height as usize / 32);
        // Of a window, one more pair is reserved than planned.
        let needed = 5 * (pair + 2 + 24) + 32 + 256 + 20;
        assert!(
            needed <= SMALLEST_WINDOW && SMALLEST_WINDOW < needed + 2 * BLOCK_TOKENS,
            "{needed}"
        );
    }
}
