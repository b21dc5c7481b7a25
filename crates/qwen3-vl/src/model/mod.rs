//! Qwen3-VL itself: vision tower, language model, KV cache. `forward(&inputs, &mut kv)`, no state
//! of a sequence inside.

pub mod attention;
pub mod kv_cache;
pub mod linear;
pub mod norm;
pub mod quantized;
pub mod rope;
pub mod text;
pub mod vision;
pub mod weights;

use std::sync::Arc;

pub use kv_cache::{KvCache, KvPool};
pub use quantized::Quantization;
pub use text::{Chunk, TextModel};
pub use vision::{Geometry, Grid, VisionTokens, VisionTower};
pub use weights::{Target, Weights, WeightsError};

use crate::config::{Config, ConfigError};

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
}

impl Model {
    /// Builds the model that `config` describes.
    ///
    /// # Errors
    ///
    /// See [`ModelError`].
    pub fn load(config: Config, weights: &Weights) -> Result<Self, ModelError> {
        let text = &config.text_config;
        if text.num_experts.is_some_and(|n| n > 0) {
            let text = "mixture-of-experts models cannot be loaded yet: use a dense one";
            return Err(ConfigError::Unsupported(text.into()).into());
        }
        let rope = config.rope()?;
        let shape = (
            text.num_hidden_layers,
            text.num_key_value_heads,
            text.head_dim(),
        );
        Ok(Self {
            vision: VisionTower::load(weights, &config.vision_config)?,
            text: TextModel::load(weights, &config, &rope)?,
            kv: KvPool::new(shape, weights.compute(), weights.device().clone()),
            config,
        })
    }
}
