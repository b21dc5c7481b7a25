//! Names of tensors in GGUF (gguf-py: `tensor_mapping.py`; `conversion/qwen3vl.py`).

/// What the converter calls a tensor. Its number of the DeepStack merger is that of the block that
/// is tapped. Experts and the kernel of patches become other tensors than they were.
pub(crate) fn of(name: &str, taps: &[usize]) -> Option<String> {
    if let Some(rest) = name.strip_prefix("model.visual.") {
        return vision(rest, taps);
    }
    let name = name.strip_prefix("model.language_model.").unwrap_or(name);
    let (part, kind) = name.rsplit_once('.')?;
    let renamed = match part {
        "embed_tokens" => "token_embd".into(),
        "norm" => "output_norm".into(),
        "lm_head" => "output".into(),
        _ => {
            let (layer, part) = part.strip_prefix("layers.")?.split_once('.')?;
            let part = match part {
                "input_layernorm" => "attn_norm",
                "post_attention_layernorm" => "ffn_norm",
                "self_attn.q_proj" => "attn_q",
                "self_attn.k_proj" => "attn_k",
                "self_attn.v_proj" => "attn_v",
                "self_attn.o_proj" => "attn_output",
                "self_attn.q_norm" => "attn_q_norm",
                "self_attn.k_norm" => "attn_k_norm",
                "mlp.gate_proj" => "ffn_gate",
                "mlp.up_proj" => "ffn_up",
                "mlp.down_proj" => "ffn_down",
                "mlp.gate" => "ffn_gate_inp",
                _ => return None,
            };
            format!("blk.{layer}.{part}")
        }
    };
    Some(format!("{renamed}.{kind}"))
}

fn vision(name: &str, taps: &[usize]) -> Option<String> {
    let (part, kind) = name.rsplit_once('.')?;
    let renamed = match part {
        "pos_embed" => "v.position_embd".into(),
        "patch_embed.proj" => "v.patch_embd".into(),
        "merger.norm" => "v.post_ln".into(),
        "merger.linear_fc1" => "mm.0".into(),
        "merger.linear_fc2" => "mm.2".into(),
        _ => match part.strip_prefix("deepstack_merger_list.") {
            Some(rest) => {
                let (index, part) = rest.split_once('.')?;
                let block = taps.get(index.parse::<usize>().ok()?)?;
                let part = part.trim_start_matches("linear_");
                format!("v.deepstack.{block}.{part}")
            }
            None => {
                let (block, part) = part.strip_prefix("blocks.")?.split_once('.')?;
                let part = match part {
                    "norm1" => "ln1",
                    "norm2" => "ln2",
                    "attn.qkv" => "attn_qkv",
                    "attn.proj" => "attn_out",
                    "mlp.linear_fc1" => "ffn_up",
                    "mlp.linear_fc2" => "ffn_down",
                    _ => return None,
                };
                format!("v.blk.{block}.{part}")
            }
        },
    };
    Some(format!("{renamed}.{kind}"))
}
