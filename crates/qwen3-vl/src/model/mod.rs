//! Qwen3-VL itself: vision tower, language model, KV cache. `forward(&inputs, &mut kv)`, no state
//! of a sequence inside.

pub mod activation;
pub mod attention;
pub mod attention_metadata;
pub mod chunk;
pub mod embedding;
pub mod executor;
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

use crate::config::{Config, ConfigError};
use crate::cpu::pool::Flag;
use crate::weights::{Weights, WeightsError};

/// Why a model cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// What passes keep between them; one for each thread that runs a model.
#[derive(Default)]
pub struct Workspace {
    /// Looked at between layers.
    pub(crate) flag: Flag,
    /// Of passes on the CPU.
    pub(crate) cpu: tensors::CpuWorkspace,
    /// Of passes on another device.
    device: Option<Box<dyn Any + Send>>,
}

impl Workspace {
    /// A workspace for passes on a device that end when the flag is raised; on the CPU, with threads.
    pub fn new(device: &Device, flag: &Flag) -> Self {
        Self {
            flag: flag.clone(),
            cpu: match device {
                Device::Cpu => tensors::CpuWorkspace::threaded(flag),
                _ => tensors::CpuWorkspace::default(),
            },
            ..Self::default()
        }
    }

    /// What passes on a kind of device keep, in that device's own type.
    pub fn of_device<T: Default + Send + 'static>(&mut self) -> &mut T {
        let kept = self.device.take().and_then(|kept| kept.downcast().ok());
        let kept: Box<dyn Any + Send> = kept.unwrap_or_else(|| Box::new(T::default()));
        match self.device.insert(kept).downcast_mut() {
            Some(kept) => kept,
            None => unreachable!("it has just been made of this type"),
        }
    }

    /// An error if the pass is to end.
    pub(crate) fn check(&self) -> candle_core::Result<()> {
        tensors::check(&self.flag)
    }
}

/// A model on a device.
#[derive(Debug)]
pub struct Model {
    /// Its configuration.
    pub config: Config,
    /// Frames to vision tokens.
    pub vision: VisionTower,
    /// Tokens to scores.
    pub text: TextModel,
    /// Makes the caches of sequences.
    pub kv: Arc<KvPool>,
    platform: Arc<dyn Platform>,
}

impl Model {
    /// The states of a sequence without tokens.
    pub fn new_state(&self) -> SequenceState {
        SequenceState::new(KvCache::new(&self.kv))
    }

    /// Runs the model on another platform than that of candle's operations.
    pub(crate) fn run_on(&mut self, platform: Arc<dyn Platform>) {
        self.text.run_on(&platform);
        self.platform = platform;
    }

    /// Builds the model that `config` describes on the weights' device, and its vision tower on `vision_device`, which
    /// is the same one or, so that both can work at a time, the same GPU with another stream.
    ///
    /// # Errors
    ///
    /// See [`ModelError`].
    pub fn load(
        config: Config,
        weights: &mut Weights,
        vision_device: Device,
    ) -> Result<Self, ModelError> {
        Self::check(&config)?;
        ensure_depth(&config, weights)?;
        let mut text = TextModel::load(weights, &config)?;
        let shape = (text.depth(), text.heads.kv, text.heads.width);
        let kv = KvPool::new(shape, weights.compute(), weights.device().clone());
        weights.aim(vision_device);
        let vision = VisionTower::load(weights, &config.vision_config)?;
        weights.ensure_all_read(&["model.language_model.", "model.visual."])?;
        let platform: Arc<dyn Platform> = Arc::new(tensors::Tensors);
        text.run_on(&platform);
        Ok(Self {
            config,
            vision,
            text,
            kv,
            platform,
        })
    }

    /// Whether `config` describes a model that can be built.
    ///
    /// # Errors
    ///
    /// See [`ModelError`].
    pub fn check(config: &Config) -> Result<(), ModelError> {
        Ok(config.ensure_dense()?)
    }
}

/// That the last layers are there, before anything is made of the first ones.
fn ensure_depth(config: &Config, weights: &Weights) -> Result<(), WeightsError> {
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
        // All names of a small file are looked for, so that the error names the first that is missing.
        let missing = (0..count).map(name).find(|name| !weights.contains(name));
        if let Some(name) = missing {
            return Err(WeightsError::Missing(name));
        }
    }
    Ok(())
}
