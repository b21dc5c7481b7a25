//! Random checkpoints of the official architecture (`tools/reference/make_checkpoints.py`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr;
use std::{fs, io};

use safetensors::{Dtype, View};
use serde_json::{Map, Value, json};

use super::tokens;
use super::weights::{cheap_bf16, hash_fill};

/// A small checkpoint with weights by formula, f32, official vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checkpoint {
    /// Dense, the head tied to the embedding.
    DenseTied,
    /// Dense, with a head of its own.
    DenseUntied,
    /// Mixture of experts: 8, of which 2 are active for a token.
    Moe,
}

impl Checkpoint {
    /// All checkpoints.
    pub const ALL: [Self; 3] = [Self::DenseTied, Self::DenseUntied, Self::Moe];

    /// Name as in the golden files.
    pub fn name(self) -> &'static str {
        match self {
            Self::DenseTied => "dense-tied",
            Self::DenseUntied => "dense-untied",
            Self::Moe => "moe",
        }
    }

    fn seed(self) -> u64 {
        match self {
            Self::DenseTied => 1,
            Self::DenseUntied => 2,
            Self::Moe => 3,
        }
    }

    fn dimensions(self) -> Dimensions {
        Dimensions {
            tied: self == Self::DenseTied,
            experts: (self == Self::Moe).then_some(Experts {
                count: 8,
                active: 2,
                intermediate: 48,
            }),
            ..SMALL
        }
    }
}

/// Writes a small checkpoint into the folder `dir`, which is created: `config.json`,
/// `config.v5.json` (the same in the form of transformers 5), the generation and preprocessor
/// configs and `model.safetensors`. No tokenizer: see [`super::write_tokenizer`].
///
/// # Errors
///
/// Those of writing.
pub fn write_checkpoint(dir: &Path, which: Checkpoint) -> io::Result<()> {
    write_by_formula(dir, which, &which.dimensions())
}

/// The same with the tokenizer, and so the few tokens, of the checkpoint in the folder `other`.
///
/// # Errors
///
/// Those of reading and writing.
pub fn write_checkpoint_like(dir: &Path, which: Checkpoint, other: &Path) -> io::Result<()> {
    let dimensions = Dimensions {
        vocabulary: tokens::count(other)?,
        ..which.dimensions()
    };
    write_by_formula(dir, which, &dimensions)?;
    tokens::adopt(dir, other)
}

fn write_by_formula(dir: &Path, which: Checkpoint, dimensions: &Dimensions) -> io::Result<()> {
    write_configs(dir, dimensions, "float32")?;
    let seed = which.seed();
    write_weights(dir, dimensions, Dtype::F32, move |name, shape| {
        hash_fill(name, shape, seed)
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect()
    })
}

/// Writes a small checkpoint whose linear layers are wide enough for blocks of 256 weights, with a
/// head of its own. `change` gets the name and shape of each tensor and may alter its values. No
/// reference values, no tokenizer.
///
/// # Errors
///
/// Those of writing.
pub fn write_wide(
    dir: &Path,
    change: impl Fn(&str, &[usize], Vec<f32>) -> Vec<f32>,
) -> io::Result<()> {
    write_changed(dir, &WIDE, change)
}

/// The same as a mixture of experts: four, of which `active` work.
///
/// # Errors
///
/// Those of writing.
pub fn write_wide_experts(
    dir: &Path,
    active: usize,
    change: impl Fn(&str, &[usize], Vec<f32>) -> Vec<f32>,
) -> io::Result<()> {
    let experts = Some(Experts {
        count: 4,
        active,
        intermediate: 512,
    });
    let dimensions = Dimensions { experts, ..WIDE };
    write_changed(dir, &dimensions, change)
}

fn write_changed(
    dir: &Path,
    dimensions: &Dimensions,
    change: impl Fn(&str, &[usize], Vec<f32>) -> Vec<f32>,
) -> io::Result<()> {
    write_configs(dir, dimensions, "float32")?;
    write_weights(dir, dimensions, Dtype::F32, |name, shape| {
        let values = change(name, shape, hash_fill(name, shape, 4));
        values.into_iter().flat_map(f32::to_le_bytes).collect()
    })
}

/// Real models, whose dimensions a checkpoint with random weights can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Real {
    /// 4 GB.
    TwoB,
    /// 9 GB.
    FourB,
    /// 18 GB.
    EightB,
    /// Mixture of experts, 62 GB.
    ThirtyB,
    /// Not a real one: dense layers that read as much for a token as those of [`Real::ThirtyB`] do,
    /// 7 GB.
    ThirtyBDense,
}

impl FromStr for Real {
    type Err = String;

    /// `2b`, `4b`, `8b`, `30b-a3b` or `30b-a3b-dense`.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "2b" => Ok(Self::TwoB),
            "4b" => Ok(Self::FourB),
            "8b" => Ok(Self::EightB),
            "30b-a3b" => Ok(Self::ThirtyB),
            "30b-a3b-dense" => Ok(Self::ThirtyBDense),
            _ => Err(format!(
                "unknown size {name:?}: use 2b, 4b, 8b, 30b-a3b or 30b-a3b-dense"
            )),
        }
    }
}

/// Writes a model of real dimensions with random bf16 weights (one tensor in memory at a time), for
/// measurements of speed and memory. `layers` replaces the number of the language model's layers.
/// No tokenizer.
///
/// # Errors
///
/// Those of writing.
pub fn write_real(dir: &Path, size: Real, layers: Option<usize>) -> io::Result<()> {
    let dimensions = size.dimensions(layers);
    write_configs(dir, &dimensions, "bfloat16")?;
    write_weights(dir, &dimensions, Dtype::BF16, cheap_bf16)
}

impl Real {
    /// With that many layers of the language model, or as many as it has.
    pub(crate) fn dimensions(self, layers: Option<usize>) -> Dimensions {
        let mut dimensions = match self {
            Self::TwoB => TWO_B,
            Self::FourB => FOUR_B,
            Self::EightB => EIGHT_B,
            Self::ThirtyB => THIRTY_B,
            Self::ThirtyBDense => Dimensions {
                intermediate: 8 * 768,
                experts: None,
                ..THIRTY_B
            },
        };
        dimensions.layers = layers.unwrap_or(dimensions.layers);
        dimensions
    }
}

#[derive(Clone)]
pub(crate) struct Dimensions {
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) intermediate: usize,
    pub(crate) sections: [usize; 3],
    pub(crate) context: usize,
    pub(crate) tied: bool,
    pub(crate) experts: Option<Experts>,
    pub(crate) vision: Vision,
}

#[derive(Clone)]
pub(crate) struct Experts {
    pub(crate) count: usize,
    pub(crate) active: usize,
    pub(crate) intermediate: usize,
}

#[derive(Clone)]
pub(crate) struct Vision {
    pub(crate) hidden: usize,
    pub(crate) depth: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    pub(crate) taps: &'static [usize],
}

const VOCABULARY: usize = 151_936;
const POSITIONS: usize = 2304;

pub(crate) const SMALL: Dimensions = Dimensions {
    vocabulary: VOCABULARY,
    hidden: 64,
    layers: 4,
    heads: 4,
    kv_heads: 2,
    head_dim: 32,
    intermediate: 128,
    sections: [6, 5, 5],
    context: 4096,
    tied: true,
    experts: None,
    vision: Vision {
        hidden: 64,
        depth: 6,
        heads: 4,
        intermediate: 128,
        taps: &[1, 2, 4],
    },
};

/// Of [`SMALL`], with rows of whole blocks of 256 values.
const WIDE: Dimensions = Dimensions {
    hidden: 256,
    intermediate: 512,
    heads: 8,
    tied: false,
    ..SMALL
};

const VISION_S: Vision = Vision {
    hidden: 1024,
    depth: 24,
    heads: 16,
    intermediate: 4096,
    taps: &[5, 11, 17],
};

const VISION_L: Vision = Vision {
    hidden: 1152,
    depth: 27,
    heads: 16,
    intermediate: 4304,
    taps: &[8, 16, 24],
};

const TWO_B: Dimensions = Dimensions {
    vocabulary: VOCABULARY,
    hidden: 2048,
    layers: 28,
    heads: 16,
    kv_heads: 8,
    head_dim: 128,
    intermediate: 6144,
    sections: [24, 20, 20],
    context: 262_144,
    tied: true,
    experts: None,
    vision: VISION_S,
};

const FOUR_B: Dimensions = Dimensions {
    hidden: 2560,
    layers: 36,
    heads: 32,
    intermediate: 9728,
    ..TWO_B
};

const EIGHT_B: Dimensions = Dimensions {
    hidden: 4096,
    layers: 36,
    heads: 32,
    intermediate: 12_288,
    tied: false,
    vision: VISION_L,
    ..TWO_B
};

const THIRTY_B: Dimensions = Dimensions {
    layers: 48,
    heads: 32,
    kv_heads: 4,
    tied: false,
    experts: Some(Experts {
        count: 128,
        active: 8,
        intermediate: 768,
    }),
    vision: VISION_L,
    ..TWO_B
};

impl Dimensions {
    /// Names and shapes of all tensors.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[usize]| all.push((name, shape.to_vec()));
        let hidden = self.hidden;
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocabulary, hidden]);
        }
        let text = "model.language_model";
        add(
            format!("{text}.embed_tokens.weight"),
            &[self.vocabulary, hidden],
        );
        add(format!("{text}.norm.weight"), &[hidden]);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        for i in 0..self.layers {
            let layer = format!("{text}.layers.{i}");
            add(format!("{layer}.input_layernorm.weight"), &[hidden]);
            add(
                format!("{layer}.post_attention_layernorm.weight"),
                &[hidden],
            );
            for (name, shape) in [
                ("q_proj", &[q, hidden][..]),
                ("k_proj", &[kv, hidden]),
                ("v_proj", &[kv, hidden]),
                ("o_proj", &[hidden, q]),
                ("q_norm", &[self.head_dim]),
                ("k_norm", &[self.head_dim]),
            ] {
                add(format!("{layer}.self_attn.{name}.weight"), shape);
            }
            if let Some(experts) = &self.experts {
                let (count, inner) = (experts.count, experts.intermediate);
                add(format!("{layer}.mlp.gate.weight"), &[count, hidden]);
                let experts = format!("{layer}.mlp.experts");
                add(
                    format!("{experts}.gate_up_proj"),
                    &[count, hidden, 2 * inner],
                );
                add(format!("{experts}.down_proj"), &[count, inner, hidden]);
            } else {
                for name in ["gate_proj", "up_proj"] {
                    add(
                        format!("{layer}.mlp.{name}.weight"),
                        &[self.intermediate, hidden],
                    );
                }
                add(
                    format!("{layer}.mlp.down_proj.weight"),
                    &[hidden, self.intermediate],
                );
            }
        }
        self.vision.tensors(hidden, &mut add);
        all
    }
}

impl Vision {
    fn tensors(&self, out_hidden: usize, add: &mut impl FnMut(String, &[usize])) {
        let tower = "model.visual";
        let (hidden, inner) = (self.hidden, self.intermediate);
        let mut with_bias = |name: String, weight: &[usize]| {
            add(format!("{name}.weight"), weight);
            add(format!("{name}.bias"), &weight[..1]);
        };
        with_bias(format!("{tower}.patch_embed.proj"), &[hidden, 3, 2, 16, 16]);
        for i in 0..self.depth {
            let block = format!("{tower}.blocks.{i}");
            with_bias(format!("{block}.norm1"), &[hidden]);
            with_bias(format!("{block}.norm2"), &[hidden]);
            with_bias(format!("{block}.attn.qkv"), &[3 * hidden, hidden]);
            with_bias(format!("{block}.attn.proj"), &[hidden, hidden]);
            with_bias(format!("{block}.mlp.linear_fc1"), &[inner, hidden]);
            with_bias(format!("{block}.mlp.linear_fc2"), &[hidden, inner]);
        }
        let merged = 4 * hidden;
        let mut merger = |name: String, norm: usize| {
            with_bias(format!("{name}.norm"), &[norm]);
            with_bias(format!("{name}.linear_fc1"), &[merged, merged]);
            with_bias(format!("{name}.linear_fc2"), &[out_hidden, merged]);
        };
        // The merger normalises before it joins four patches, the DeepStack mergers after.
        merger(format!("{tower}.merger"), hidden);
        for i in 0..self.taps.len() {
            merger(format!("{tower}.deepstack_merger_list.{i}"), merged);
        }
        add(format!("{tower}.pos_embed.weight"), &[POSITIONS, hidden]);
    }
}

/// A tensor whose values are computed when it is written.
struct Lazy<'a, F> {
    name: &'a str,
    shape: &'a [usize],
    dtype: Dtype,
    fill: &'a F,
}

impl<F: Fn(&str, &[usize]) -> Vec<u8>> View for Lazy<'_, F> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        (self.fill)(self.name, self.shape).into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

fn write_weights(
    dir: &Path,
    dimensions: &Dimensions,
    dtype: Dtype,
    fill: impl Fn(&str, &[usize]) -> Vec<u8>,
) -> io::Result<()> {
    let path = dir.join("model.safetensors");
    write_lazily(&path, &dimensions.tensors(), dtype, fill)
}

/// Writes a file with one tensor in memory at a time.
pub(crate) fn write_lazily(
    path: &Path,
    tensors: &[(String, Vec<usize>)],
    dtype: Dtype,
    fill: impl Fn(&str, &[usize]) -> Vec<u8>,
) -> io::Result<()> {
    let views = tensors.iter().map(|(name, shape)| {
        let view = Lazy {
            name,
            shape,
            dtype,
            fill: &fill,
        };
        (name, view)
    });
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(io::Error::other)
}

pub(crate) fn write_configs(dir: &Path, dimensions: &Dimensions, dtype: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let write =
        |name: &str, value: &Value| fs::write(dir.join(name), serde_json::to_vec_pretty(value)?);
    write("config.json", &config_v4(dimensions, dtype))?;
    write("config.v5.json", &config_v5(dimensions, dtype))?;
    write(
        "generation_config.json",
        &json!({
            "bos_token_id": 151643,
            "pad_token_id": 151643,
            "do_sample": true,
            "eos_token_id": [151645, 151643],
            "top_k": 20,
            "top_p": 0.8,
            "repetition_penalty": 1.0,
            "temperature": 0.7,
            "transformers_version": "4.56.0",
        }),
    )?;
    let common = json!({
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
    });
    let image = json!({
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "image_processor_type": "Qwen2VLImageProcessorFast",
    });
    let video = json!({
        "size": {"longest_edge": 25165824, "shortest_edge": 4096},
        "video_processor_type": "Qwen3VLVideoProcessor",
    });
    write("preprocessor_config.json", &merged(&[&common, &image]))?;
    write(
        "video_preprocessor_config.json",
        &merged(&[&common, &video]),
    )
}

/// As official checkpoints have it (transformers 4.57).
pub(crate) fn config_v4(d: &Dimensions, dtype: &str) -> Value {
    let rope = json!({
        "rope_scaling": {
            "mrope_interleaved": true, "mrope_section": d.sections, "rope_type": "default",
        },
        "rope_theta": 5_000_000,
    });
    let experts = d
        .experts
        .as_ref()
        .map_or(json!({}), |experts| json!({"num_experts": experts.count}));
    json!({
        "architectures": [architecture(d)],
        "model_type": model_type(d),
        "text_config": merged(&[&text_config(d, dtype), &rope, &experts]),
        "vision_config": merged(&[&vision_config(d), &json!({"model_type": model_type(d)})]),
        "tie_word_embeddings": d.tied,
        "transformers_version": "4.57.0.dev0",
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
    })
}

/// As transformers 5 writes it.
fn config_v5(d: &Dimensions, dtype: &str) -> Value {
    let rope = json!({
        "pad_token_id": null,
        "rope_parameters": {
            "mrope_interleaved": true,
            "mrope_section": d.sections,
            "rope_theta": 5_000_000,
            "rope_type": "default",
        },
    });
    let experts = d.experts.as_ref().map_or(
        json!({}),
        |experts| json!({"num_local_experts": experts.count, "sliding_window": null}),
    );
    let vision = json!({
        "model_type": format!("{}_vision", model_type(d)),
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"},
    });
    json!({
        "architectures": [architecture(d)],
        "dtype": dtype,
        "model_type": model_type(d),
        "text_config": merged(&[&text_config(d, dtype), &rope, &experts]),
        "vision_config": merged(&[&vision_config(d), &vision]),
        "tie_word_embeddings": d.tied,
        "transformers_version": "5.17.0",
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
    })
}

fn text_config(d: &Dimensions, dtype: &str) -> Value {
    let common = json!({
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "dtype": dtype,
        "eos_token_id": 151645,
        "head_dim": d.head_dim,
        "hidden_act": "silu",
        "hidden_size": d.hidden,
        "initializer_range": 0.02,
        "intermediate_size": d.intermediate,
        "max_position_embeddings": d.context,
        "model_type": format!("{}_text", model_type(d)),
        "num_attention_heads": d.heads,
        "num_hidden_layers": d.layers,
        "num_key_value_heads": d.kv_heads,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": d.tied,
        "use_cache": true,
        "vocab_size": d.vocabulary,
    });
    let experts = d.experts.as_ref().map_or(json!({}), |experts| {
        json!({
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "moe_intermediate_size": experts.intermediate,
            "norm_topk_prob": true,
            "num_experts_per_tok": experts.active,
            "router_aux_loss_coef": 0.001,
        })
    });
    merged(&[&common, &experts])
}

fn vision_config(d: &Dimensions) -> Value {
    json!({
        "deepstack_visual_indexes": d.vision.taps,
        "depth": d.vision.depth,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": d.vision.hidden,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": d.vision.intermediate,
        "num_heads": d.vision.heads,
        "num_position_embeddings": POSITIONS,
        "out_hidden_size": d.hidden,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    })
}

fn model_type(d: &Dimensions) -> &'static str {
    if d.experts.is_some() {
        "qwen3_vl_moe"
    } else {
        "qwen3_vl"
    }
}

fn architecture(d: &Dimensions) -> &'static str {
    if d.experts.is_some() {
        "Qwen3VLMoeForConditionalGeneration"
    } else {
        "Qwen3VLForConditionalGeneration"
    }
}

/// The union of JSON objects.
pub(crate) fn merged(parts: &[&Value]) -> Value {
    let entries = parts.iter().filter_map(|part| part.as_object()).flatten();
    Value::Object(
        entries
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<Map<_, _>>(),
    )
}
