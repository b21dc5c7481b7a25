//! `config.json` and `generation_config.json` of a checkpoint, as Hugging Face writes them.

use serde::Deserialize;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("{file}: {source}")]
    Json {
        /// Name of the file.
        file: &'static str,
        /// What serde found.
        source: serde_json::Error,
    },
    /// A value that this implementation, or the architecture, does not allow.
    #[error("config.json: {0}")]
    Unsupported(String),
}

/// `config.json` of `Qwen3VLForConditionalGeneration`.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// `qwen3_vl` or `qwen3_vl_moe`.
    pub model_type: String,
    /// Placeholder of an image's vision tokens.
    pub image_token_id: u32,
    /// Placeholder of a video's vision tokens.
    pub video_token_id: u32,
    /// Opens a run of vision tokens.
    pub vision_start_token_id: u32,
    /// Closes a run of vision tokens.
    pub vision_end_token_id: u32,
    /// Whether the output head is the embedding table.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// The language model.
    pub text_config: TextConfig,
    /// The vision tower.
    pub vision_config: VisionConfig,
}

/// The language model's part of `config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct TextConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads.
    pub num_key_value_heads: usize,
    /// Width of a head; `hidden_size / num_attention_heads` if absent.
    pub head_dim: Option<usize>,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f64,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Longest context, in tokens.
    pub max_position_embeddings: usize,
    /// Activation of the MLP; must be `silu`.
    pub hidden_act: String,
    /// Bias on the attention projections; must be false.
    #[serde(default)]
    pub attention_bias: bool,
    /// Number of experts of a mixture-of-experts model.
    pub num_experts: Option<usize>,
    /// RoPE base as the released checkpoints spell it.
    rope_theta: Option<f64>,
    /// RoPE settings as the released checkpoints spell them.
    rope_scaling: Option<RopeSettings>,
    /// RoPE settings as transformers 5 spells them, base included.
    rope_parameters: Option<RopeSettings>,
}

#[derive(Clone, Debug, Deserialize)]
struct RopeSettings {
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    mrope_section: Option<[usize; 3]>,
    mrope_interleaved: Option<bool>,
}

/// The vision tower's part of `config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct VisionConfig {
    /// Blocks.
    pub depth: usize,
    /// Width.
    pub hidden_size: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Colour channels; must be 3.
    pub in_channels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Frames per patch.
    pub temporal_patch_size: usize,
    /// Side of the square of patches that becomes one token.
    pub spatial_merge_size: usize,
    /// Width of the vision tokens; the language model's `hidden_size`.
    pub out_hidden_size: usize,
    /// Rows of the learned position table, a square number.
    pub num_position_embeddings: usize,
    /// Blocks after which DeepStack taps the stream.
    pub deepstack_visual_indexes: Vec<usize>,
    /// Activation of the MLP; must be `gelu_pytorch_tanh`.
    pub hidden_act: String,
}

/// Interleaved M-RoPE.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Frequencies of the time, height and width axes; their sum is `head_dim / 2`.
    pub section: [usize; 3],
}

impl Config {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the field that is missing or cannot be used.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_slice(json).map_err(|source| ConfigError::Json {
            file: "config.json",
            source,
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let Self {
            text_config: text,
            vision_config: vision,
            ..
        } = self;
        ensure(
            matches!(self.model_type.as_str(), "qwen3_vl" | "qwen3_vl_moe"),
            || format!("model_type is {:?}, expected qwen3_vl", self.model_type),
        )?;
        let sizes = [
            ("hidden_size", text.hidden_size),
            ("num_hidden_layers", text.num_hidden_layers),
            ("num_attention_heads", text.num_attention_heads),
            ("num_key_value_heads", text.num_key_value_heads),
            ("intermediate_size", text.intermediate_size),
            ("vocab_size", text.vocab_size),
            ("max_position_embeddings", text.max_position_embeddings),
            ("head_dim", text.head_dim()),
            ("depth", vision.depth),
            ("vision hidden_size", vision.hidden_size),
            ("num_heads", vision.num_heads),
            ("vision intermediate_size", vision.intermediate_size),
            ("patch_size", vision.patch_size),
            ("spatial_merge_size", vision.spatial_merge_size),
            ("num_position_embeddings", vision.num_position_embeddings),
        ];
        for (name, value) in sizes {
            ensure((1..1 << 24).contains(&value), || {
                format!("{name} = {value} is out of range")
            })?;
        }
        ensure(
            text.num_attention_heads
                .is_multiple_of(text.num_key_value_heads),
            || "num_attention_heads is not a multiple of num_key_value_heads".into(),
        )?;
        ensure(text.hidden_act == "silu", || {
            format!(
                "text hidden_act {:?} is not supported (silu is)",
                text.hidden_act
            )
        })?;
        ensure(!text.attention_bias, || {
            "attention_bias = true is not supported".into()
        })?;
        let rope = self.rope()?;
        ensure(
            rope.section.iter().sum::<usize>() * 2 == text.head_dim(),
            || {
                format!(
                    "mrope_section {:?} does not sum to head_dim / 2",
                    rope.section
                )
            },
        )?;
        ensure(vision.hidden_act == "gelu_pytorch_tanh", || {
            format!("vision hidden_act {:?} is not supported", vision.hidden_act)
        })?;
        ensure(
            vision.in_channels == 3 && vision.temporal_patch_size == 2,
            || "only 3 channels and temporal patches of 2 frames are supported".into(),
        )?;
        ensure(
            vision.hidden_size.is_multiple_of(vision.num_heads)
                && (vision.hidden_size / vision.num_heads).is_multiple_of(4),
            || "the vision head dimension is not a multiple of 4".into(),
        )?;
        ensure(
            vision.position_side().pow(2) == vision.num_position_embeddings,
            || "num_position_embeddings is not a square number".into(),
        )?;
        ensure(vision.out_hidden_size == text.hidden_size, || {
            "vision out_hidden_size differs from the text hidden_size".into()
        })?;
        let taps = &vision.deepstack_visual_indexes;
        ensure(
            taps.len() <= text.num_hidden_layers && taps.iter().all(|&i| i < vision.depth),
            || format!("deepstack_visual_indexes {taps:?} do not fit"),
        )
    }

    /// The RoPE settings, in either spelling.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unsupported`] if they are absent or of another kind than interleaved M-RoPE.
    pub fn rope(&self) -> Result<Rope, ConfigError> {
        let text = &self.text_config;
        let settings = text
            .rope_parameters
            .as_ref()
            .or(text.rope_scaling.as_ref())
            .ok_or_else(|| {
                ConfigError::Unsupported("neither rope_parameters nor rope_scaling".into())
            })?;
        ensure(
            settings.rope_type.as_deref().is_none_or(|t| t == "default"),
            || format!("rope_type {:?} is not supported", settings.rope_type),
        )?;
        ensure(settings.mrope_interleaved != Some(false), || {
            "mrope_interleaved = false is not supported".into()
        })?;
        let missing = |name: &str| ConfigError::Unsupported(format!("{name} is missing"));
        Ok(Rope {
            theta: settings
                .rope_theta
                .or(text.rope_theta)
                .ok_or_else(|| missing("rope_theta"))?,
            section: settings
                .mrope_section
                .ok_or_else(|| missing("mrope_section"))?,
        })
    }
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError::Unsupported(message()))
    }
}

impl TextConfig {
    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }
}

impl VisionConfig {
    /// Side of the learned position table.
    pub fn position_side(&self) -> usize {
        self.num_position_embeddings.isqrt()
    }

    /// Values of one patch: channels x frames x rows x columns.
    pub fn patch_len(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }
}

/// `generation_config.json`: how the checkpoint's authors decode. Every field may be absent.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct GenerationConfig {
    /// False means greedy.
    pub do_sample: Option<bool>,
    /// Temperature.
    pub temperature: Option<f64>,
    /// Nucleus.
    pub top_p: Option<f64>,
    /// Most likely tokens kept.
    pub top_k: Option<u32>,
    /// Repetition penalty.
    pub repetition_penalty: Option<f64>,
    /// Presence penalty (not a field that transformers knows; other engines write it).
    pub presence_penalty: Option<f64>,
    /// Ids that end an answer.
    #[serde(default)]
    pub eos_token_id: OneOrMany,
}

impl GenerationConfig {
    /// Reads `generation_config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Json`].
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        serde_json::from_slice(json).map_err(|source| ConfigError::Json {
            file: "generation_config.json",
            source,
        })
    }
}

/// A number, a list of numbers or nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// `null` or absent.
    #[default]
    None,
    /// One id.
    One(u32),
    /// Several ids.
    Many(Vec<u32>),
}

impl OneOrMany {
    /// All ids.
    pub fn to_vec(&self) -> Vec<u32> {
        match self {
            Self::None => Vec::new(),
            Self::One(id) => vec![*id],
            Self::Many(ids) => ids.clone(),
        }
    }
}

/// The pixel budget and normalisation of `video_preprocessor_config.json` or
/// `preprocessor_config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct PreprocessorConfig {
    /// Least and most pixels.
    pub size: PixelRange,
    /// Mean of each channel of values in 0 to 1.
    pub image_mean: [f32; 3],
    /// Standard deviation of each channel.
    pub image_std: [f32; 3],
}

/// `{"shortest_edge": …, "longest_edge": …}`: numbers of pixels in spite of the names.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct PixelRange {
    /// Least pixels.
    pub shortest_edge: u64,
    /// Most pixels.
    pub longest_edge: u64,
}

impl PreprocessorConfig {
    /// Reads the file of that name.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Json`].
    pub fn from_json(file: &'static str, json: &[u8]) -> Result<Self, ConfigError> {
        serde_json::from_slice(json).map_err(|source| ConfigError::Json { file, source })
    }
}
