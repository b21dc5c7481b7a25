//! The smallest files that pass for a model.

use super::Converted;
use super::writer::{GgufFile, TensorData, Value, texts};

/// A model of a few tokens, with all keys and the two tensors that they are compared with.
pub fn tiny() -> Converted {
    let mut text = GgufFile::default();
    text.set("general.architecture", "qwen3vl");
    for (key, value) in [
        ("block_count", 2),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 8),
        ("attention.value_length", 8),
        ("n_deepstack_layers", 1),
    ] {
        text.set(&format!("qwen3vl.{key}"), Value::U32(value));
    }
    text.set("qwen3vl.rope.freq_base", Value::F32(5e6));
    let epsilon = "qwen3vl.attention.layer_norm_rms_epsilon";
    text.set(epsilon, Value::F32(1e-6));
    let sections = [2, 1, 1, 0].map(Value::I32).to_vec();
    text.set("qwen3vl.rope.dimension_sections", Value::Array(5, sections));
    let tokens = [
        "a",
        "b",
        "ab",
        "Ġ",
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
        "<think>",
        "[PAD12]",
    ];
    let kinds = [1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 4, 5];
    text.set("tokenizer.ggml.model", "gpt2");
    text.set("tokenizer.ggml.pre", "qwen2");
    text.set("tokenizer.ggml.tokens", texts(tokens));
    let kinds = kinds.map(Value::I32).to_vec();
    text.set("tokenizer.ggml.token_type", Value::Array(5, kinds));
    text.set("tokenizer.ggml.merges", texts(["a b"]));
    text.set("tokenizer.ggml.eos_token_id", Value::U32(6));
    text.set("general.sampling.temp", Value::F32(0.7));
    text.tensors.push(TensorData {
        name: "token_embd.weight".into(),
        shape: vec![tokens.len(), 32],
        kind: 8,
        bytes: vec![0; tokens.len() * 34],
        offset: None,
    });

    let mut vision = GgufFile::default();
    vision.set("general.architecture", "clip");
    vision.set("clip.has_vision_encoder", Value::Bool(true));
    vision.set("clip.projector_type", "qwen3vl_merger");
    vision.set("clip.use_gelu", Value::Bool(true));
    for (key, value) in [
        ("block_count", 2),
        ("embedding_length", 16),
        ("feed_forward_length", 32),
        ("attention.head_count", 2),
        ("patch_size", 16),
        ("image_size", 32),
        ("projection_dim", 32),
        ("spatial_merge_size", 2),
    ] {
        vision.set(&format!("clip.vision.{key}"), Value::U32(value));
    }
    let halves = Value::Array(6, vec![Value::F32(0.5); 3]);
    vision.set("clip.vision.image_mean", halves.clone());
    vision.set("clip.vision.image_std", halves);
    let taps = [false, true].map(Value::Bool).to_vec();
    vision.set("clip.vision.is_deepstack_layers", Value::Array(7, taps));
    vision.tensors.push(TensorData {
        name: "v.position_embd.weight".into(),
        shape: vec![4, 16],
        kind: 0,
        bytes: vec![0; 4 * 4 * 16],
        offset: None,
    });
    Converted { text, vision }
}
