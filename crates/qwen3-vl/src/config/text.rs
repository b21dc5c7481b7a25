//! The language model's part of `config.json`.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::kind::Kind;
use super::rope::{self, Rope};
use super::{ConfigError, ensure, ensure_activation, ensure_product, ensure_sizes, merged};

/// The language model (transformers: `Qwen3VLTextConfig`, `Qwen3VLMoeTextConfig`).
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
    /// Width of a head.
    pub head_dim: usize,
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
    pub attention_bias: bool,
    /// Experts of a mixture of experts; 0 in a dense model.
    pub num_experts: usize,
    /// Position embeddings.
    pub rope: Rope,
}

/// The file's fields over the defaults of the architecture.
pub(super) fn complete(mut said: Map<String, Value>, kind: Kind) -> Result<Value, ConfigError> {
    let rope = rope::text(&said)?;
    said.insert("rope".into(), rope);
    // transformers 5 writes `num_local_experts`.
    let experts = ["num_experts", "num_local_experts"].map(|name| said.remove(name));
    if let (Kind::Experts, Some(count)) = (kind, experts.into_iter().flatten().next()) {
        said.insert("num_experts".into(), count);
    }
    let mut all = merged(defaults(kind), said);
    if all["num_key_value_heads"].is_null() {
        all["num_key_value_heads"] = all["num_attention_heads"].clone();
    }
    if kind == Kind::Experts && (all["head_dim"].is_null() || all["head_dim"] == json!(0)) {
        let size = |name: &str| all[name].as_u64();
        let width = size("hidden_size").zip(size("num_attention_heads"));
        all["head_dim"] = json!(width.and_then(|(hidden, heads)| hidden.checked_div(heads)));
    }
    Ok(all)
}

fn defaults(kind: Kind) -> Value {
    match kind {
        Kind::Dense => json!({
            "vocab_size": 151_936,
            "hidden_size": 4096,
            "intermediate_size": 22_016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "hidden_act": "silu",
            "max_position_embeddings": 128_000,
            "rms_norm_eps": 1e-6,
            "attention_bias": false,
            "num_experts": 0,
        }),
        Kind::Experts => json!({
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "head_dim": null,
            "hidden_act": "silu",
            "max_position_embeddings": 128_000,
            "rms_norm_eps": 1e-6,
            "attention_bias": false,
            "num_experts": 60,
        }),
    }
}

impl TextConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        ensure_sizes(&[
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.intermediate_size),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        ensure_product(
            "num_attention_heads x head_dim",
            &[self.num_attention_heads, self.head_dim],
        )?;
        ensure(
            self.num_attention_heads
                .is_multiple_of(self.num_key_value_heads),
            || "num_attention_heads is not a multiple of num_key_value_heads".into(),
        )?;
        ensure((0.0..1.0).contains(&self.rms_norm_eps), || {
            format!(
                "rms_norm_eps = {} is not between 0 and 1",
                self.rms_norm_eps
            )
        })?;
        ensure_activation("text", &self.hidden_act, "silu")?;
        ensure(!self.attention_bias, || {
            "attention_bias = true is not supported".into()
        })?;
        self.rope.check(self.head_dim)
    }
}
