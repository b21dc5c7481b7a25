//! Memory that a model's weights will take, by its configuration and by what the headers of its
//! files say. It goes through the tensors as [`Model::load`](super::Model::load) does.

use super::ensure_depth;
use super::linear::{blocks_bytes, is_packed, kept_bytes, plain_bytes};
use crate::config::{Config, TextConfig, VisionConfig};
use crate::weights::{QuantizeAtLoad, Weights, WeightsError};

/// Bytes of all weights as they will be kept, if the language model's layers are rounded like that.
///
/// # Errors
///
/// Those of loading, as far as headers tell: a tensor that is missing, has another shape, or a type
/// that is not known.
pub fn weights_bytes(
    config: &Config,
    weights: &Weights,
    rounded: QuantizeAtLoad,
) -> Result<u64, WeightsError> {
    ensure_depth(config, weights)?;
    let walk = Walk { weights, rounded };
    let all = [walk.text(config)?, walk.vision(&config.vision_config)?];
    Ok(sum(all))
}

fn sum(parts: impl IntoIterator<Item = u64>) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}

struct Walk<'a> {
    weights: &'a Weights,
    rounded: QuantizeAtLoad,
}

type Bytes = Result<u64, WeightsError>;

impl Walk<'_> {
    /// `TextModel::load`.
    fn text(&self, config: &Config) -> Bytes {
        let (c, name) = (&config.text_config, "model.language_model");
        let table = (c.vocab_size, c.hidden_size);
        let (embed, own) = (format!("{name}.embed_tokens"), "lm_head");
        let tied = config.tie_word_embeddings && !is_packed(self.weights, own);
        let has = |name: &str| self.weights.contains(&format!("{name}.weight"));
        // Of both, the head is taken to have the same values.
        let tied = tied.then(|| {
            if has(&embed) || !has(own) {
                embed.as_str()
            } else {
                own
            }
        });
        let plain = self.rounded.rounding(c.hidden_size).is_none();
        let head = match tied {
            Some(_) if plain => 0,
            Some(table_name) => self.rounded(table_name, table)?,
            None => self.rounded(own, table)?,
        };
        let embeddings = match tied {
            Some(name) if plain => self.tied(name, table)?,
            name => self.exact(name.unwrap_or(&embed), table)?,
        };
        let norm = self.vector(&format!("{name}.norm.weight"), c.hidden_size)?;
        let mut all = sum([head, embeddings, norm]);
        for index in 0..c.num_hidden_layers {
            all = sum([
                all,
                self.layer(&format!("{name}.layers.{index}"), index, c)?,
            ]);
        }
        Ok(all)
    }

    /// `Layer::load`.
    fn layer(&self, name: &str, index: usize, c: &TextConfig) -> Bytes {
        let width = c.head_dim;
        let (q, kv) = (c.num_attention_heads * width, c.num_key_value_heads * width);
        let norm = |part: &str, width| self.vector(&format!("{name}.{part}.weight"), width);
        let linear = |part: &str, shape| self.rounded(&format!("{name}.self_attn.{part}"), shape);
        let attention = sum([
            norm("input_layernorm", c.hidden_size)?,
            linear("q_proj", (q, c.hidden_size))?,
            linear("k_proj", (kv, c.hidden_size))?,
            linear("v_proj", (kv, c.hidden_size))?,
            linear("o_proj", (c.hidden_size, q))?,
            norm("self_attn.q_norm", width)?,
            norm("self_attn.k_norm", width)?,
            norm("post_attention_layernorm", c.hidden_size)?,
        ]);
        let mlp = format!("{name}.mlp");
        if !c.is_sparse(index) {
            return Ok(sum([
                attention,
                self.mlp(&mlp, (c.hidden_size, c.intermediate_size))?,
            ]));
        }
        let (mut all, dims) = (attention, (c.hidden_size, c.moe_intermediate_size));
        for expert in 0..c.num_experts {
            all = sum([all, self.mlp(&format!("{mlp}.experts.{expert}"), dims)?]);
        }
        let router = (c.num_experts, c.hidden_size);
        Ok(sum([all, self.exact(&format!("{mlp}.gate"), router)?]))
    }

    /// `GatedMlp::load`.
    fn mlp(&self, name: &str, (outer, inner): (usize, usize)) -> Bytes {
        Ok(sum([
            self.rounded(&format!("{name}.gate_proj"), (inner, outer))?,
            self.rounded(&format!("{name}.up_proj"), (inner, outer))?,
            self.rounded(&format!("{name}.down_proj"), (outer, inner))?,
        ]))
    }

    /// `VisionTower::load`.
    fn vision(&self, c: &VisionConfig) -> Bytes {
        let (name, d, inner) = ("model.visual", c.hidden_size, c.intermediate_size);
        let patch = format!("{name}.patch_embed.proj");
        let side = c.patch_size;
        let shape = [d, c.in_channels, c.temporal_patch_size, side, side];
        let mut all = sum([
            plain_bytes(self.weights, &format!("{patch}.weight"), &shape)?,
            self.vector(&format!("{patch}.bias"), d)?,
            // Positions are kept in f32.
            4 * (c.num_position_embeddings * d) as u64,
        ]);
        for index in 0..c.depth {
            let name = format!("{name}.blocks.{index}");
            let linear = |part: &str, shape| self.with_bias(&format!("{name}.{part}"), shape);
            all = sum([
                all,
                self.norm(&format!("{name}.norm1"), d)?,
                self.norm(&format!("{name}.norm2"), d)?,
                linear("attn.qkv", (3 * d, d))?,
                linear("attn.proj", (d, d))?,
                linear("mlp.linear_fc1", (inner, d))?,
                linear("mlp.linear_fc2", (d, inner))?,
            ]);
        }
        let merged = d * c.spatial_merge_size.pow(2);
        let merger = |name: &str, width: usize| -> Bytes {
            Ok(sum([
                self.norm(&format!("{name}.norm"), width)?,
                self.with_bias(&format!("{name}.linear_fc1"), (merged, merged))?,
                self.with_bias(&format!("{name}.linear_fc2"), (c.out_hidden_size, merged))?,
            ]))
        };
        all = sum([all, merger(&format!("{name}.merger"), d)?]);
        for index in 0..c.deepstack_visual_indexes.len() {
            let name = format!("{name}.deepstack_merger_list.{index}");
            all = sum([all, merger(&name, merged)?]);
        }
        Ok(all)
    }

    /// `Linear::load`.
    fn linear(&self, name: &str, shape: (usize, usize)) -> Bytes {
        kept_bytes(self.weights, name, shape, QuantizeAtLoad::None)
    }

    /// `Linear::load_rounded`.
    fn rounded(&self, name: &str, shape: (usize, usize)) -> Bytes {
        kept_bytes(self.weights, name, shape, self.rounded)
    }

    /// `Linear::load_with_bias`.
    fn with_bias(&self, name: &str, shape: (usize, usize)) -> Bytes {
        let bias = self.vector(&format!("{name}.bias"), shape.0)?;
        Ok(sum([self.linear(name, shape)?, bias]))
    }

    /// `Embedding::load` and `Linear::load_exact`: on the CPU blocks stay blocks.
    fn exact(&self, name: &str, (rows, columns): (usize, usize)) -> Bytes {
        let tensor = format!("{name}.weight");
        let header = self.weights.header_of(&tensor, &[rows, columns])?;
        if self.weights.device().is_cpu() && self.weights.has_blocks(&tensor) {
            return Ok(header.bytes as u64);
        }
        let each = self.weights.kept_dtype(header.dtype).size_in_bytes();
        Ok(header.values.saturating_mul(each) as u64)
    }

    /// `Embedding::load_tied`.
    fn tied(&self, name: &str, shape: (usize, usize)) -> Bytes {
        let (weights, tensor) = (self.weights, format!("{name}.weight"));
        match weights.has_blocks(&tensor) {
            true if weights.int8() => blocks_bytes(weights, &tensor, shape, true),
            true => self.exact(name, shape),
            false => plain_bytes(weights, &tensor, &[shape.0, shape.1]),
        }
    }

    /// A norm with a bias.
    fn norm(&self, name: &str, width: usize) -> Bytes {
        let part = |part: &str| self.vector(&format!("{name}.{part}"), width);
        Ok(sum([part("weight")?, part("bias")?]))
    }

    /// `Weights::vector`.
    fn vector(&self, name: &str, width: usize) -> Bytes {
        self.weights.header_of(name, &[width])?;
        Ok((width * self.weights.dtype().size_in_bytes()) as u64)
    }
}
