//! `text_config`.

use serde_json::{Value, json};

use super::{decimal, tokens};
use crate::quote::quoted;
use crate::weights::gguf::{GgufError, GgufModel};

/// Whether the language model is a mixture of experts.
pub(super) fn has_experts(model: &GgufModel) -> Result<bool, GgufError> {
    Ok(architecture(model)? == "qwen3vlmoe")
}

fn architecture(model: &GgufModel) -> Result<&str, GgufError> {
    let name = model.text().text("general.architecture")?;
    Ok(name.unwrap_or_default())
}

/// A key of the architecture.
pub(super) fn key(model: &GgufModel, name: &str) -> Result<String, GgufError> {
    Ok(format!("{}.{name}", architecture(model)?))
}

pub(super) fn config(model: &GgufModel) -> Result<Value, GgufError> {
    let file = model.text();
    let key = |name: &str| key(model, name);
    let need = |name: &str| file.need_integer(&key(name)?);
    let may = |name: &str| file.integer(&key(name)?);
    let (hidden, heads) = (need("embedding_length")?, need("attention.head_count")?);
    let width = may("attention.key_length")?.or(hidden.checked_div(heads));
    if may("attention.value_length")?.is_some_and(|values| Some(values) != width) {
        return Err(file.error("its keys and values are not of one width (attention.value_length)"));
    }
    let scaling = file.text(&key("rope.scaling.type")?)?;
    if let Some(scaling) = scaling.filter(|scaling| *scaling != "none") {
        let scaling = quoted(scaling);
        return Err(file.error(format!("rope.scaling.type {scaling} is not supported")));
    }
    let mut config = json!({
        "hidden_size": hidden,
        "num_hidden_layers": need("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": may("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": width,
        "rms_norm_eps": decimal(file.need_number(&key("attention.layer_norm_rms_epsilon")?)?),
        "vocab_size": vocabulary(model)?,
        "max_position_embeddings": need("context_length")?,
        "rope_parameters": {
            "rope_theta": decimal(file.need_number(&key("rope.freq_base")?)?),
            "mrope_section": sections(model)?,
            "rope_type": "default",
        },
    });
    let widths = match has_experts(model)? {
        false => vec![("intermediate_size", json!(need("feed_forward_length")?))],
        true => vec![
            ("num_experts", json!(need("expert_count")?)),
            ("num_experts_per_tok", json!(need("expert_used_count")?)),
            (
                "moe_intermediate_size",
                json!(need("expert_feed_forward_length")?),
            ),
            // As llama.cpp runs it: every layer has experts, whose weights sum to one.
            ("norm_topk_prob", json!(true)),
            ("decoder_sparse_step", json!(1)),
            ("mlp_only_layers", json!([])),
        ],
    };
    for (name, value) in widths {
        config[name] = value;
    }
    Ok(config)
}

/// Rows of the embedding table, of which each token has one.
fn vocabulary(model: &GgufModel) -> Result<usize, GgufError> {
    let file = model.text();
    let table = model.text_tensor("token_embd.weight");
    let table = table.ok_or_else(|| file.error("it has no tensor token_embd.weight"))?;
    let rows = table.shape.first().copied().unwrap_or(0);
    let tokens = tokens(file)?.len();
    match tokens == rows {
        true => Ok(rows),
        false => Err(file.error(format!(
            "tokenizer.ggml.tokens has {tokens} tokens, token_embd.weight {rows} rows"
        ))),
    }
}

/// Frequencies of the axes of M-RoPE: time, height, width, and a fourth that there is none of.
fn sections(model: &GgufModel) -> Result<Vec<u64>, GgufError> {
    let (file, key) = (model.text(), key(model, "rope.dimension_sections")?);
    match file.integers(&key)?.as_deref() {
        Some([axes @ .., 0]) if axes.len() == 3 => Ok(axes.into()),
        Some(axes) if axes.len() == 3 => Ok(axes.into()),
        Some(_) => Err(file.error(format!("its key {key} is not three axes and a zero"))),
        None => Err(file.error(format!(
            "it has no key {key}, without which it is no Qwen3-VL"
        ))),
    }
}
