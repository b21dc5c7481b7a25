//! Hugging Face's names of the tensors in a GGUF file (llama.cpp: `gguf-py/gguf/tensor_mapping.py`
//! and `conversion/qwen3vl.py`).

use std::collections::{BTreeSet, HashMap};

use super::{Gguf, GgufError};
use crate::quote::quoted;

/// What a tensor of Hugging Face's is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Name of the tensor in the file.
    pub(super) tensor: String,
    pub(super) part: Part,
}

/// Which part of a tensor in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// One matrix of the experts' `[experts, out, in]`.
    Expert(usize),
    /// All of it, frame by frame with the tensor `{name}.1`: the kernel `[D, 3, 2, 16, 16]` of two
    /// frames is two of `[D, 3, 16, 16]` in the file.
    Frame,
}

/// Most names that a file may give: the largest model has 36 thousand experts' matrices.
const MOST_NAMES: usize = 1 << 18;

const PATCH: &str = "v.patch_embd.weight";
/// The second frame's.
pub(super) const PATCH_1: &str = "v.patch_embd.weight.1";

/// Parts of a layer of the language model.
const TEXT: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The router of a mixture of experts.
const ROUTER: (&str, &str) = ("ffn_gate_inp", "mlp.gate");

/// Its experts, all in one tensor.
const EXPERTS: [(&str, &str); 3] = [
    ("ffn_gate_exps", "gate_proj"),
    ("ffn_up_exps", "up_proj"),
    ("ffn_down_exps", "down_proj"),
];

/// Parts of a block of the vision tower.
const VISION: [(&str, &str); 6] = [
    ("attn_qkv", "attn.qkv"),
    ("attn_out", "attn.proj"),
    ("ffn_up", "mlp.linear_fc1"),
    ("ffn_down", "mlp.linear_fc2"),
    ("ln1", "norm1"),
    ("ln2", "norm2"),
];

/// Parts of a DeepStack merger.
const DEEPSTACK: [(&str, &str); 3] = [
    ("norm", "norm"),
    ("fc1", "linear_fc1"),
    ("fc2", "linear_fc2"),
];

/// Tensors that there are once.
const SINGLE: [(&str, &str); 7] = [
    ("token_embd", "model.language_model.embed_tokens"),
    ("output_norm", "model.language_model.norm"),
    ("output", "lm_head"),
    ("v.position_embd", "model.visual.pos_embed"),
    ("v.post_ln", "model.visual.merger.norm"),
    ("mm.0", "model.visual.merger.linear_fc1"),
    ("mm.2", "model.visual.merger.linear_fc2"),
];

/// All tensors of a file by Hugging Face's names. One that the model has no place for gets a name
/// below its part's, so that it is found to be left over.
pub(super) fn places(file: &Gguf) -> Result<HashMap<String, Place>, GgufError> {
    let error = |reason: String| file.metadata().error(reason);
    let taps: BTreeSet<usize> = file.tensors.keys().filter_map(|name| tap(name)).collect();
    let mut places = HashMap::new();
    let mut add = |name: String, tensor: &str, part| {
        let place = Place {
            tensor: tensor.into(),
            part,
        };
        match places.insert(name, place) {
            Some(other) => Err(error(format!(
                "the tensors {} and {} are the same one of the model",
                quoted(&other.tensor),
                quoted(tensor)
            ))),
            None if places.len() > MOST_NAMES => {
                Err(error(format!("it has more than {MOST_NAMES} matrices")))
            }
            None => Ok(()),
        }
    };
    for (tensor, info) in &file.tensors {
        match experts(tensor) {
            Some((prefix, suffix)) => {
                let count = info.shape.first().copied().unwrap_or(0);
                for expert in 0..count {
                    let name = format!("{prefix}.{expert}.{suffix}");
                    add(name, tensor, Part::Expert(expert))?;
                }
            }
            None if tensor == PATCH => {
                add(
                    "model.visual.patch_embed.proj.weight".into(),
                    tensor,
                    Part::Frame,
                )?;
            }
            None if tensor == PATCH_1 => (),
            None => add(whole(tensor, &taps), tensor, Part::Whole)?,
        }
    }
    Ok(places)
}

/// The block that a tensor of a DeepStack merger belongs to.
fn tap(tensor: &str) -> Option<usize> {
    let (block, _) = numbered(tensor.strip_prefix("v.deepstack.")?)?;
    Some(block)
}

/// A number and what comes behind it and a dot.
fn numbered(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.split_once('.')?;
    let value: usize = number.parse().ok()?;
    // As it is written in one way only.
    (value.to_string() == number).then_some((value, rest))
}

/// What stands before and behind the number of an expert, of a tensor with those of all.
fn experts(tensor: &str) -> Option<(String, String)> {
    let (layer, rest) = numbered(tensor.strip_prefix("blk.")?)?;
    let (part, kind) = rest.split_once('.')?;
    let (_, name) = EXPERTS.iter().find(|(own, _)| *own == part)?;
    let prefix = format!("model.language_model.layers.{layer}.mlp.experts");
    Some((prefix, format!("{name}.{kind}")))
}

/// The name of a tensor that is one of the model's as it is.
fn whole(tensor: &str, taps: &BTreeSet<usize>) -> String {
    known(tensor, taps).unwrap_or_else(|| match tensor.split('.').next() {
        Some("blk") => format!("model.language_model.{tensor}"),
        Some("v" | "mm") => format!("model.visual.{tensor}"),
        _ => tensor.into(),
    })
}

fn known(tensor: &str, taps: &BTreeSet<usize>) -> Option<String> {
    let (part, kind) = tensor.rsplit_once('.')?;
    let of = |table: &[(&str, &'static str)], part: &str| {
        let found = table.iter().find(|(own, _)| *own == part);
        found.map(|(_, name)| *name)
    };
    if let Some(name) = of(&SINGLE, part) {
        return Some(format!("{name}.{kind}"));
    }
    if part == "v.patch_embd" {
        return Some(format!("model.visual.patch_embed.proj.{kind}"));
    }
    if let Some(rest) = part.strip_prefix("blk.") {
        let (layer, part) = numbered(rest)?;
        let name = of(&TEXT, part).or_else(|| of(&[ROUTER], part))?;
        return Some(format!("model.language_model.layers.{layer}.{name}.{kind}"));
    }
    if let Some(rest) = part.strip_prefix("v.blk.") {
        let (block, part) = numbered(rest)?;
        let name = of(&VISION, part)?;
        return Some(format!("model.visual.blocks.{block}.{name}.{kind}"));
    }
    let (block, part) = numbered(part.strip_prefix("v.deepstack.")?)?;
    let (index, name) = (taps.range(..block).count(), of(&DEEPSTACK, part)?);
    Some(format!(
        "model.visual.deepstack_merger_list.{index}.{name}.{kind}"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_hugging_face() {
        let taps = BTreeSet::from([8, 16, 24]);
        for (own, expected) in [
            (
                "token_embd.weight",
                "model.language_model.embed_tokens.weight",
            ),
            ("output.weight", "lm_head.weight"),
            (
                "blk.7.attn_q_norm.weight",
                "model.language_model.layers.7.self_attn.q_norm.weight",
            ),
            (
                "blk.10.ffn_gate_inp.weight",
                "model.language_model.layers.10.mlp.gate.weight",
            ),
            (
                "v.blk.0.attn_out.bias",
                "model.visual.blocks.0.attn.proj.bias",
            ),
            ("v.patch_embd.bias", "model.visual.patch_embed.proj.bias"),
            ("v.post_ln.weight", "model.visual.merger.norm.weight"),
            ("mm.2.bias", "model.visual.merger.linear_fc2.bias"),
            // By their order, whatever the blocks are.
            (
                "v.deepstack.24.fc1.weight",
                "model.visual.deepstack_merger_list.2.linear_fc1.weight",
            ),
            // There is no place for these.
            (
                "blk.3.attn_qkv.weight",
                "model.language_model.blk.3.attn_qkv.weight",
            ),
            (
                "blk.03.attn_q.weight",
                "model.language_model.blk.03.attn_q.weight",
            ),
            (
                "v.blk.0.ffn_gate.weight",
                "model.visual.v.blk.0.ffn_gate.weight",
            ),
            ("rope_freqs.weight", "rope_freqs.weight"),
        ] {
            assert_eq!(whole(own, &taps), expected, "{own}");
        }
        let (prefix, suffix) = experts("blk.5.ffn_down_exps.weight").unwrap();
        assert_eq!(prefix, "model.language_model.layers.5.mlp.experts");
        assert_eq!(suffix, "down_proj.weight");
        assert_eq!(experts("blk.5.ffn_down.weight"), None);
        assert_eq!(
            (tap("v.deepstack.16.norm.bias"), tap("v.blk.16.ln1.bias")),
            (Some(16), None)
        );
    }
}
