//! The Qwen3-VL model: vision tower, language model, KV cache. The model holds no state of a
//! sequence; passes take it as an argument.

pub mod activation;
pub mod attention;
pub mod attention_metadata;
pub mod chunk;
pub mod embedding;
pub mod executor;
pub(crate) mod experts;
pub mod footprint;
pub mod heads;
pub mod kv_cache;
pub(crate) mod layer;
pub mod linear;
pub mod merged;
pub mod norm;
pub(crate) mod ops;
pub mod platform;
pub mod rope;
mod state;
pub(crate) mod tensors;
pub mod text;
pub mod vision;

use std::any::Any;
use std::sync::Arc;

use candle_core::Device;

pub use chunk::{Chunk, SequenceSlice};
pub use executor::Executor;
pub use kv_cache::{KvCache, KvPool};
use platform::Platform;
pub use platform::{Candidates, PendingEncode};
pub use state::SequenceState;
pub use text::TextModel;
pub use vision::{Geometry, Grid, VisionTokens, VisionTower};

use crate::compute::Compute;
use crate::config::Config;
use crate::cpu::pool::Flag;
use crate::weights::{Weights, WeightsError};

/// Memory and threads that passes reuse. Each thread that runs a model has its own.
#[derive(Default)]
pub struct Workspace {
    /// Interrupts a pass when raised; polled between layers.
    pub(crate) flag: Flag,
    /// For passes on the CPU.
    pub(crate) cpu: tensors::CpuWorkspace,
    /// For passes on another device.
    device: Option<Box<dyn Any + Send>>,
}

impl Workspace {
    /// A workspace for passes on `device`, which are interrupted when the flag is raised. On the
    /// CPU it starts threads.
    pub fn new(device: &Device, flag: &Flag) -> Self {
        Self {
            flag: flag.clone(),
            cpu: match device {
                Device::Cpu => tensors::CpuWorkspace::threaded(flag),
                _ => tensors::CpuWorkspace::default(),
            },
            device: None,
        }
    }

    /// The workspace of a kind of device, in that device's own type.
    ///
    /// # Errors
    ///
    /// If it is of another type, which it never is: it has just been made.
    pub fn of_device<T: Default + Send + 'static>(&mut self) -> candle_core::Result<&mut T> {
        let kept = self.device.take().and_then(|kept| kept.downcast().ok());
        let kept: Box<dyn Any + Send> = kept.unwrap_or_else(|| Box::new(T::default()));
        let kept = self.device.insert(kept).downcast_mut();
        kept.ok_or_else(|| candle_core::Error::msg("a workspace of another device"))
    }

    /// An error if the pass is interrupted.
    pub(crate) fn check(&self) -> candle_core::Result<()> {
        tensors::check(&self.flag)
    }
}

/// A model on a device.
#[derive(Debug)]
pub struct Model {
    /// Its configuration.
    pub config: Config,
    /// The vision tower: frames to vision tokens.
    pub vision: VisionTower,
    /// The language model: tokens to logits.
    pub text: TextModel,
    /// Arithmetic of products, on the CPU.
    pub compute: Compute,
    /// The block pool of the sequences' KV caches.
    pub kv: Arc<KvPool>,
    platform: Arc<dyn Platform>,
}

impl Model {
    /// The state of a sequence without tokens.
    pub fn new_state(&self) -> SequenceState {
        SequenceState::new(KvCache::new(&self.kv))
    }

    /// Makes the model run on another platform than candle's operations.
    pub(crate) fn run_on(&mut self, platform: Arc<dyn Platform>) {
        self.text.run_on(&platform);
        self.platform = platform;
    }

    /// Builds the model that `config` describes on the weights' device, and its vision tower on
    /// `vision_device`: the same device or, so that both run concurrently, another stream of the
    /// same GPU.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn load(
        config: Config,
        weights: &mut Weights,
        vision_device: Device,
    ) -> Result<Self, WeightsError> {
        weights.set_quantization(config.quantization.clone());
        ensure_depth(&config, weights)?;
        let mut text = TextModel::load(weights, &config)?;
        let shape = (text.depth(), text.heads.kv, text.heads.width);
        let kv = KvPool::new(shape, weights.dtype(), weights.device().clone());
        weights.aim(vision_device);
        let vision = VisionTower::load(weights, &config.vision_config)?;
        weights.ensure_all_read(&["model.language_model.", "model.visual."])?;
        let platform: Arc<dyn Platform> = Arc::new(tensors::Tensors);
        text.run_on(&platform);
        Ok(Self {
            config,
            compute: weights.compute(),
            vision,
            text,
            kv,
            platform,
        })
    }
}

/// Checks that the file has the last layers before the first ones are loaded.
pub(crate) fn ensure_depth(config: &Config, weights: &Weights) -> Result<(), WeightsError> {
    let layers = config.text_config.num_hidden_layers;
    let blocks = config.vision_config.depth;
    let last = [
        (
            "model.language_model.layers",
            layers,
            "input_layernorm.weight",
        ),
        ("model.visual.blocks", blocks, "norm1.weight"),
    ];
    for (part, count, tensor) in last {
        let name = |index: usize| format!("{part}.{index}.{tensor}");
        // Checks the names in order, so that the error names the first one missing.
        let missing = (0..count).map(name).find(|name| !weights.contains(name));
        if let Some(name) = missing {
            return Err(WeightsError::Missing(name));
        }
    }
    Ok(())
}
