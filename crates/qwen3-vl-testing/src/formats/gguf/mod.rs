//! GGUF: the text in one or two files and the vision tower in another, as llama.cpp's converter
//! lays them out. Matrices of the text have types of a table
//! (`tools/reference/formats/gguf_files.py`).

mod blocks;
mod metadata;
mod real;

use std::io;

use safetensors::Dtype;

use crate::checkpoint::Dimensions;
use crate::gguf::{GgufFile, TensorData, Value, names};
use crate::weights::hash_fill;
use blocks::{Kind, q8_0};
pub(super) use real::write_real;

use super::pack::encoded;

/// Types of the matrices of the dense text model, in its layers' order.
const DENSE: [(&str, Kind); 15] = [
    ("token_embd", Kind::Q6K),
    ("blk.0.attn_q", Kind::Q4K),
    ("blk.0.attn_k", Kind::Q5K),
    ("blk.0.attn_v", Kind::Q6K),
    ("blk.0.attn_output", Kind::Q8_0),
    ("blk.0.ffn_gate", Kind::Q4_0),
    ("blk.0.ffn_up", Kind::Q4_1),
    ("blk.0.ffn_down", Kind::Q5_0),
    ("blk.1.attn_q", Kind::F16),
    ("blk.1.attn_k", Kind::Bf16),
    ("blk.1.attn_v", Kind::Q8_0),
    ("blk.1.attn_output", Kind::Q5K),
    ("blk.1.ffn_gate", Kind::Q6K),
    ("blk.1.ffn_up", Kind::Q4K),
    ("blk.1.ffn_down", Kind::Q5_1),
];

/// Those of the one with experts that are not Q4_K.
const EXPERTS: [(&str, Kind); 6] = [
    ("output", Kind::Q6K),
    ("blk.0.attn_v", Kind::Q6K),
    ("blk.1.ffn_up_exps", Kind::Q5K),
    ("blk.0.ffn_down_exps", Kind::Q6K),
    ("blk.1.ffn_down_exps", Kind::Q8_0),
    ("blk.0.ffn_up_exps", Kind::Q4K),
];

/// Tensors of a file of the model with experts.
const SPLIT: usize = 16;

/// All files of a checkpoint, with this `tokenizer.json`, by their names.
///
/// # Errors
///
/// If the tokenizer has not the parts of Qwen's.
pub(super) fn files(
    dimensions: &Dimensions,
    seed: u64,
    tokenizer: &[u8],
) -> io::Result<Vec<(String, GgufFile)>> {
    let experts = dimensions.experts.is_some();
    let (name, vision) = match experts {
        false => ("Qwen3-VL-Small-Instruct", Kind::F16),
        true => ("Qwen3-VL-Small-MoE-Instruct", Kind::Q8_0),
    };
    let mut tensors = dimensions.tensors();
    tensors.sort_unstable();
    let (tower, text): (Vec<_>, Vec<_>) = tensors
        .into_iter()
        .partition(|(name, _)| name.starts_with("model.visual."));
    let tower: Vec<TensorData> = tower
        .into_iter()
        .flat_map(|(name, shape)| vision_tensors(&name, &shape, vision, dimensions, seed))
        .collect();
    let text: Vec<TensorData> = text
        .into_iter()
        .flat_map(|(name, shape)| text_tensors(&name, &shape, listed(experts), seed))
        .collect();
    let mut files = vec![(
        format!("mmproj-{name}-{}.gguf", vision.name()),
        file(metadata::vision(dimensions, vision), tower),
    )];
    let metadata = metadata::text(dimensions, tokenizer)?;
    let parts: Vec<&[TensorData]> = match experts {
        false => vec![&text],
        true => text.chunks(SPLIT).collect(),
    };
    for (number, part) in parts.iter().enumerate() {
        let (mut part_metadata, mut suffix) = (Vec::new(), String::new());
        if number == 0 {
            part_metadata.extend_from_slice(&metadata);
        }
        if parts.len() > 1 {
            part_metadata.extend(metadata::split(number, parts.len(), text.len()));
            suffix = format!("-{:05}-of-{:05}", number + 1, parts.len());
        }
        let name = format!("{name}-Q4_K_M{suffix}.gguf");
        files.push((name, file(part_metadata, part.to_vec())));
    }
    Ok(files)
}

/// A file of keys and tensors in this order.
fn file(keys: Vec<(String, Value)>, tensors: Vec<TensorData>) -> GgufFile {
    GgufFile {
        keys,
        tensors,
        ..GgufFile::default()
    }
}

/// The types of the tables above; the others are Q4_K.
fn listed(experts: bool) -> impl Fn(&str) -> Kind {
    let table: &[(&str, Kind)] = if experts { &EXPERTS } else { &DENSE };
    move |module| {
        let listed = table.iter().find(|(of, _)| *of == module);
        listed.map_or(Kind::Q4K, |(_, kind)| *kind)
    }
}

/// What llama.cpp calls a tensor of the language model, or the two that gate and up of all experts
/// become.
fn text_names(name: &str) -> Vec<String> {
    if let Some((layer, part)) = name.split_once(".mlp.experts.") {
        let layer = layer.trim_start_matches("model.language_model.layers.");
        let parts: &[&str] = match part {
            "gate_up_proj" => &["gate", "up"],
            _ => &["down"],
        };
        let name = |part| format!("blk.{layer}.ffn_{part}_exps.weight");
        return parts.iter().map(name).collect();
    }
    names::of(name, &[]).into_iter().collect()
}

/// What becomes of a tensor of the language model, its matrices in the types that `choose` says.
fn text_tensors(
    name: &str,
    shape: &[usize],
    choose: impl Fn(&str) -> Kind,
    seed: u64,
) -> Vec<TensorData> {
    let names = text_names(name);
    let one = |found: String, shape: Vec<usize>| {
        let module = found.trim_end_matches(".weight");
        let kind = match shape.len() == 1 || module.ends_with("ffn_gate_inp") {
            true => Kind::F32,
            false => choose(module),
        };
        let bytes = match kind {
            Kind::F32 | Kind::F16 | Kind::Bf16 => kind.numbers(stored(name, &shape, seed)),
            _ => blocks::by_formula(&found, &shape, kind, seed),
        };
        TensorData {
            name: found,
            shape,
            kind: kind as u32,
            bytes,
            offset: None,
        }
    };
    match *shape {
        // Experts are [expert, in, gate and up], and come out as [expert, out, in].
        [count, columns, rows] => {
            let rows = rows / names.len();
            let shape = vec![count, rows, columns];
            names.into_iter().map(|n| one(n, shape.clone())).collect()
        }
        _ => names.into_iter().map(|n| one(n, shape.to_vec())).collect(),
    }
}

/// What becomes of a tensor of the vision tower.
fn vision_tensors(
    name: &str,
    shape: &[usize],
    kind: Kind,
    dimensions: &Dimensions,
    seed: u64,
) -> Vec<TensorData> {
    let found = names::of(name, dimensions.vision.taps).unwrap_or_default();
    let values = stored(name, shape, seed);
    if let [out, channels, 2, height, width] = *shape {
        // One for each of the two frames of a temporal patch.
        let picture = height * width;
        let frame = |t: usize| -> Vec<f32> {
            let pictures = values.chunks_exact(picture);
            pictures.skip(t).step_by(2).flatten().copied().collect()
        };
        let kind = match kind {
            Kind::F16 => Kind::F16,
            _ => Kind::F32,
        };
        return [".weight", ".weight.1"]
            .into_iter()
            .enumerate()
            .map(|(t, suffix)| TensorData {
                name: found.replace(".weight", suffix),
                shape: vec![out, channels, height, width],
                kind: kind as u32,
                bytes: kind.numbers(frame(t)),
                offset: None,
            })
            .collect();
    }
    let kind = match shape.len() == 1 || name.contains("pos_embed") {
        true => Kind::F32,
        false => kind,
    };
    let bytes = match kind {
        Kind::Q8_0 => q8_0(&values),
        _ => kind.numbers(values),
    };
    vec![TensorData {
        name: found,
        shape: shape.to_vec(),
        kind: kind as u32,
        bytes,
        offset: None,
    }]
}

/// Values of the checkpoint in bf16 that is converted.
fn stored(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let bytes = encoded(hash_fill(name, shape, seed), Dtype::BF16);
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs
        .iter()
        .map(|pair| half::bf16::from_le_bytes(*pair).to_f32())
        .collect()
}
