//! Bounds of the engine's steps.

use std::time::Duration;

use candle_core::Device;

use super::scheduler::Limits;

/// Bounds of the engine's steps and caches, with defaults by device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Windows that decode in one pass.
    pub decoding_windows: usize,
    /// Tokens that are prefilled in one pass.
    pub prefill_tokens: usize,
    /// How long prefill may delay decoding windows in one pass. None: only [`Self::prefill_tokens`]
    /// bounds it.
    pub prefill_time: Option<Duration>,
    /// Steps that may pass over an open window with work before it gets one.
    pub max_passed_over: u32,
    /// Patches that are encoded together, unless one input has more.
    pub vision_batch_patches: u32,
    /// Vision batches in progress: one that the device works on, and those that wait for it.
    pub vision_batches: usize,
    /// Grid sizes whose vision positions are cached; a camera has one.
    pub geometries: usize,
    /// Vision tokens cached for overlapping windows, unless one input has more. At least those of a
    /// batch, because windows take their tokens from this cache when the batch is ready.
    pub vision_cache_tokens: u32,
}

impl EngineConfig {
    /// For a CPU. A batch of 2048 patches is bound by arithmetic and takes seconds on few cores:
    /// larger batches would only add latency.
    pub const CPU: Self = Self {
        decoding_windows: 64,
        prefill_tokens: 512,
        prefill_time: None,
        max_passed_over: 8,
        vision_batch_patches: 2048,
        vision_batches: 2,
        geometries: 16,
        vision_cache_tokens: 2048,
    };

    /// For a GPU: products of 512 rows leave a third or more of a large GPU idle. Not measured.
    pub const GPU: Self = Self {
        prefill_tokens: 2048,
        prefill_time: Some(Duration::from_millis(50)),
        vision_batch_patches: 8192,
        vision_cache_tokens: 4096,
        ..Self::CPU
    };

    /// The defaults for a device.
    pub fn of(device: &Device) -> Self {
        match device {
            Device::Cpu => Self::CPU,
            _ => Self::GPU,
        }
    }

    /// The scheduler's bounds.
    pub fn limits(&self) -> Limits {
        Limits {
            decoding: self.decoding_windows,
            prefill: self.prefill_tokens,
            max_passed_over: self.max_passed_over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_find_all_tokens_of_a_batch() {
        for config in [EngineConfig::CPU, EngineConfig::GPU] {
            // 2 x 2 patches are merged into a token.
            assert!(config.vision_cache_tokens >= config.vision_batch_patches / 4);
        }
    }

    #[test]
    fn the_scheduler_is_that_of_a_cpu_unless_told_otherwise() {
        assert_eq!(EngineConfig::CPU.limits(), Limits::default());
        assert_eq!(EngineConfig::of(&Device::Cpu), EngineConfig::CPU);
    }
}
