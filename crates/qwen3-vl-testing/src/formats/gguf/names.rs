//! What llama.cpp calls the tensors.

/// Modules of a layer of the language model, and what they are called.
const LAYER: [(&str, &str); 13] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
];

/// Modules of a block of the vision tower.
const BLOCK: [(&str, &str); 6] = [
    ("norm1", "ln1"),
    ("norm2", "ln2"),
    ("attn.qkv", "attn_qkv"),
    ("attn.proj", "attn_out"),
    ("mlp.linear_fc1", "ffn_up"),
    ("mlp.linear_fc2", "ffn_down"),
];

/// The other modules.
const OTHERS: [(&str, &str); 8] = [
    ("lm_head", "output"),
    ("model.language_model.embed_tokens", "token_embd"),
    ("model.language_model.norm", "output_norm"),
    ("model.visual.patch_embed.proj", "v.patch_embd"),
    ("model.visual.pos_embed", "v.position_embd"),
    ("model.visual.merger.norm", "v.post_ln"),
    ("model.visual.merger.linear_fc1", "mm.0"),
    ("model.visual.merger.linear_fc2", "mm.2"),
];

/// What a tensor of the language model becomes: two of gate and up of all experts.
pub(super) fn text(name: &str) -> Vec<String> {
    let Some(rest) = name.strip_prefix("model.language_model.layers.") else {
        return vec![format!("{}.weight", of(&OTHERS, module(name)))];
    };
    let (layer, rest) = rest.split_once('.').unwrap_or_default();
    if rest == "mlp.experts.gate_up_proj" {
        return ["gate", "up"]
            .map(|kind| format!("blk.{layer}.ffn_{kind}_exps.weight"))
            .into();
    }
    vec![format!("blk.{layer}.{}.weight", of(&LAYER, module(rest)))]
}

/// What a tensor of the vision tower becomes; the tower's blocks `taps` have DeepStack mergers.
pub(super) fn vision(name: &str, taps: &[usize]) -> String {
    let (module, kind) = name.rsplit_once('.').unwrap_or_default();
    let numbered = |prefix: &str| module.strip_prefix(prefix)?.split_once('.');
    let found = if let Some((block, rest)) = numbered("model.visual.blocks.") {
        format!("v.blk.{block}.{}", of(&BLOCK, rest))
    } else if let Some((tap, rest)) = numbered("model.visual.deepstack_merger_list.") {
        let block = tap.parse().ok().and_then(|tap: usize| taps.get(tap));
        let block = block.copied().unwrap_or_default();
        format!("v.deepstack.{block}.{}", rest.trim_start_matches("linear_"))
    } else {
        of(&OTHERS, module).into()
    };
    format!("{found}.{kind}")
}

fn module(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

fn of<'a>(table: &[(&'a str, &'a str)], module: &'a str) -> &'a str {
    let found = table.iter().find(|(name, _)| *name == module);
    found.map_or(module, |(_, found)| found)
}
