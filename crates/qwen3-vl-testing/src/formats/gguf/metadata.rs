//! Metadata as llama.cpp's converter writes it, entry by entry.

use std::io;

use super::blocks::Kind;
use crate::checkpoint::Dimensions;
use crate::gguf::{GgufFile, Value, bools, f32s, i32s, set_tokenizer};

/// The chat template of the checkpoints.
const TEMPLATE: &str = include_str!("../../../../../tools/reference/chat_template.jinja");

type Entries = Vec<(String, Value)>;

fn number(value: usize) -> Value {
    Value::U32(value as u32)
}

fn words(value: &str) -> Value {
    Value::Text(value.into())
}

/// What both kinds of file begin with.
fn general(architecture: &str, kind: &str, d: &Dimensions) -> Entries {
    let (name, finetune) = match d.experts {
        None => ("Qwen3 VL Small Instruct", "Instruct"),
        Some(_) => ("Qwen3 VL Small MoE Instruct", "MoE-Instruct"),
    };
    let entries = [
        ("architecture", words(architecture)),
        ("type", words(kind)),
        ("sampling.top_k", Value::I32(20)),
        ("sampling.top_p", Value::F32(0.8)),
        ("sampling.temp", Value::F32(0.7)),
        ("name", words(name)),
        ("finetune", words(finetune)),
        ("basename", words("Qwen3-VL")),
        ("size_label", words("Small")),
    ];
    let entries = entries.into_iter();
    entries
        .map(|(key, value)| (format!("general.{key}"), value))
        .collect()
}

/// Of the text, with this `tokenizer.json`.
pub(super) fn text(d: &Dimensions, json: &[u8]) -> io::Result<Entries> {
    let architecture = match d.experts {
        None => "qwen3vl",
        Some(_) => "qwen3vlmoe",
    };
    let mut all = general(architecture, "model", d);
    let mut add = |key: &str, value| all.push((format!("{architecture}.{key}"), value));
    let sections = d.sections.map(|n| n as i32);
    add("block_count", number(d.layers));
    add("context_length", number(d.context));
    add("embedding_length", number(d.hidden));
    add("feed_forward_length", number(d.intermediate));
    add("attention.head_count", number(d.heads));
    add("attention.head_count_kv", number(d.kv_heads));
    let sections = [&sections[..], &[0]].concat();
    add("rope.dimension_sections", i32s(sections));
    add("rope.freq_base", Value::F32(5e6));
    add("attention.layer_norm_rms_epsilon", Value::F32(1e-6));
    if let Some(experts) = &d.experts {
        add("expert_count", number(experts.count));
        add("expert_used_count", number(experts.active));
    }
    add("attention.key_length", number(d.head_dim));
    add("attention.value_length", number(d.head_dim));
    all.push(("general.file_type".into(), number(15)));
    let mut add = |key: &str, value| all.push((format!("{architecture}.{key}"), value));
    if let Some(experts) = &d.experts {
        add("expert_feed_forward_length", number(experts.intermediate));
    }
    add("n_deepstack_layers", number(d.vision.taps.len()));
    all.push(("general.quantization_version".into(), number(2)));
    let mut tokenizer = GgufFile::default();
    set_tokenizer(&mut tokenizer, json, d.vocabulary)?;
    let template = TEMPLATE.trim_end().to_owned() + "\n";
    tokenizer.set("tokenizer.chat_template", template.as_str());
    all.extend(tokenizer.keys);
    Ok(all)
}

/// Of the vision tower.
pub(super) fn vision(d: &Dimensions, kind: Kind) -> Entries {
    let mut all = general("clip", "mmproj", d);
    let mut add = |key: &str, value| all.push((key.into(), value));
    let file_type = match kind {
        Kind::F16 => 1,
        _ => 7,
    };
    let taps = (0..d.vision.depth).map(|block| d.vision.taps.contains(&block));
    let halves = f32s([0.5; 3]);
    for (key, value) in [
        ("general.file_type", number(file_type)),
        ("clip.has_vision_encoder", Value::Bool(true)),
        ("clip.vision.projection_dim", number(d.hidden)),
        ("clip.vision.image_size", number(768)),
        ("clip.vision.patch_size", number(16)),
        ("clip.vision.embedding_length", number(d.vision.hidden)),
        (
            "clip.vision.feed_forward_length",
            number(d.vision.intermediate),
        ),
        ("clip.vision.block_count", number(d.vision.depth)),
        ("clip.vision.attention.head_count", number(d.vision.heads)),
        ("clip.vision.image_mean", halves.clone()),
        ("clip.vision.image_std", halves),
        ("clip.projector_type", words("qwen3vl_merger")),
        ("clip.use_gelu", Value::Bool(true)),
        ("clip.vision.spatial_merge_size", number(2)),
        ("clip.vision.attention.layer_norm_epsilon", Value::F32(1e-6)),
        ("clip.vision.is_deepstack_layers", bools(taps)),
        ("general.quantization_version", number(2)),
    ] {
        add(key, value);
    }
    all
}

/// Of file `number` of `count`, which have so many tensors in all.
pub(super) fn split(number: usize, count: usize, tensors: usize) -> Entries {
    vec![
        ("split.no".into(), Value::U16(number as u16)),
        ("split.count".into(), Value::U16(count as u16)),
        ("split.tensors.count".into(), Value::I32(tensors as i32)),
    ]
}
