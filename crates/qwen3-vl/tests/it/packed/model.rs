//! Whole models whose layers are quantised have the logits of the same weights in f32.

use std::fs;
use std::sync::atomic::AtomicBool;

use half::bf16;
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::load::{self, LoadOptions, load_runner};
use qwen3_vl::model::{Chunk, SequenceSlice, Workspace};
use qwen3_vl::weights::QuantizeAtLoad;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::support::demo;
use compressed::Parts;
use fp8::Fp8;

const WEIGHTS: &str = "model.safetensors";

fn tensors(folder: &Path) -> Tensors {
    let bytes = fs::read(folder.join(WEIGHTS)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let all = file.tensors().into_iter();
    all.map(|(name, view)| {
        (
            name,
            (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
        )
    })
    .collect()
}

fn f32s(shape: (usize, usize), values: &[f32]) -> Stored {
    let bytes = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    (Dtype::F32, vec![shape.0, shape.1], bytes)
}

/// Each linear layer of a demo model's language model, quantised, and the same in f32. Its matrices
/// are drawn anew, a little of that in each; what matters is that both models have the same.
fn models(
    settings: Value,
    quantise: impl Fn((usize, usize), &[f32], u64) -> (Tensors, Vec<f32>),
) -> (TempDir, TempDir) {
    let (quantised, reference) = (demo::demo(), demo::demo());
    let original = tensors(quantised.path());
    let (mut ours, mut theirs) = (original.clone(), original.clone());
    for (index, (name, (dtype, shape, bytes))) in original.iter().enumerate() {
        let is_linear = name.contains("language_model.layers") && name.ends_with("_proj.weight");
        if !is_linear {
            continue;
        }
        assert_eq!(*dtype, Dtype::BF16);
        let values = bytes
            .as_chunks()
            .0
            .iter()
            .map(|b| bf16::from_le_bytes(*b).to_f32());
        let values: Vec<f32> = values.collect();
        let shape = (shape[0], shape[1]);
        let (parts, weights) = quantise(shape, &values, index as u64);
        theirs.insert(name.clone(), f32s(shape, &weights));
        ours.remove(name);
        let layer = name.strip_suffix(".weight").unwrap();
        ours.extend(
            parts
                .into_iter()
                .map(|(part, stored)| (part.replace(LAYER, layer), stored)),
        );
    }
    write(&quantised.path().join(WEIGHTS), &ours);
    write(&reference.path().join(WEIGHTS), &theirs);
    demo::edit(quantised.path(), "config.json", |config| {
        config["quantization_config"] = settings.clone();
    });
    (quantised, reference)
}

/// Round to nearest, with a scale and a zero point for each group.
fn rounded(
    shape: (usize, usize),
    values: &[f32],
    size: usize,
    least: u32,
    symmetric: bool,
) -> Integers {
    let mut matrix = Integers::new(shape, 4, Some(size), least, 0);
    for row in 0..shape.0 {
        for group in 0..matrix.groups {
            let columns = group * size..shape.1.min((group + 1) * size);
            let place = row * matrix.groups + group;
            let part = &values[row * shape.1..][columns.clone()];
            let low = part.iter().copied().fold(0.0, f32::min);
            let high = part.iter().copied().fold(0.0, f32::max);
            let (scale, zero) = match symmetric {
                true => (f32::max(-low, high) / 7.0, 8),
                false => ((high - low) / 15.0, 0),
            };
            let scale = f16::from_f32(scale.max(1e-4));
            let zero = match symmetric {
                true => zero,
                false => ((-low / scale.to_f32()).round() as u32).clamp(least, 15),
            };
            (matrix.scales[place], matrix.zeros[place]) = (scale, zero);
            for column in columns {
                let value = values[row * shape.1 + column] / scale.to_f32();
                let q = (value.round() as i32 + zero as i32).clamp(0, 15);
                matrix.q[row * shape.1 + column] = q as u32;
            }
        }
    }
    matrix
}

/// Logits behind each of some tokens, in one pass.
fn logits(runner: &Runner, tokens: u32) -> Vec<Vec<f32>> {
    let model = &runner.parts.model;
    let vocabulary = model.config.text_config.vocab_size as u32;
    let chunk = Chunk {
        ids: (0..tokens).map(|index| index * 97 % vocabulary).collect(),
        positions: (0..tokens).map(|position| [position; 3]).collect(),
        vision: Vec::new(),
    };
    let mut state = model.new_state();
    let mut parts = [SequenceSlice {
        chunk: &chunk,
        state: &mut state,
        outputs: chunk.len(),
    }];
    let logits = model.text.forward(&mut parts, &mut Workspace::default());
    logits.unwrap().unwrap().to_vec2().unwrap()
}

fn assert_same(settings: Value, told: &str, models: (TempDir, TempDir)) {
    let (quantised, reference) = models;
    let runner = |folder: &Path| {
        let never = AtomicBool::new(false);
        load_runner(&demo::options(folder), &mut |_| (), &never)
            .unwrap()
            .1
    };
    let (ours, theirs) = (runner(quantised.path()), runner(reference.path()));
    for tokens in [1, 9, 40] {
        let (got, want) = (logits(&ours, tokens), logits(&theirs, tokens));
        let all = got.iter().flatten().zip(want.iter().flatten());
        let worst = all.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "{settings}, {tokens} tokens: {worst}");
        assert!(got.iter().flatten().any(|logit| logit.abs() > 0.1));
    }
    let backend = demo::load(quantised.path()).unwrap();
    assert_eq!(backend.model().quantization.as_deref(), Some(told));
    assert_obstacles(quantised.path());
}

/// That it is not rounded again is said at once.
fn assert_obstacles(folder: &Path) {
    let options = LoadOptions {
        quantization: QuantizeAtLoad::Q8_0,
        ..demo::options(folder)
    };
    let error = load::check(&options).unwrap_err().to_string();
    for word in ["quantised already", "property quantization unset"] {
        assert!(error.contains(word), "{error} lacks {word:?}");
    }
}

const TOLD: &str = ", 1 of 29 layers not quantised";

#[test]
fn awq() {
    let settings = json!({
        "quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm",
        "zero_point": true, "modules_to_not_convert": ["visual"],
    });
    let models = models(settings.clone(), |shape, values, _| {
        let matrix = rounded(shape, values, 64, 0, false);
        (awq::packed(&matrix), matrix.weights())
    });
    assert_same(settings, &format!("awq 4-bit{TOLD}"), models);
}

/// With columns of groups from anywhere.
#[test]
fn gptq() {
    let settings = json!({
        "quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": true, "sym": false,
        "checkpoint_format": "gptq",
    });
    let models = models(settings.clone(), |shape, values, seed| {
        let mut matrix = rounded(shape, values, 32, 1, false);
        let mut random = Random(seed);
        for column in (1..matrix.k).rev() {
            matrix.group.swap(column, random.below(column + 1));
        }
        (gptq::packed(&matrix, 1, true), matrix.weights())
    });
    assert_same(settings, &format!("gptq 4-bit{TOLD}"), models);
}

#[test]
fn compressed_tensors() {
    let settings = json!({
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
            "num_bits": 4, "type": "int", "strategy": "group", "group_size": 32,
            "symmetric": true,
        }}},
        "ignore": ["lm_head"],
    });
    let models = models(settings.clone(), |shape, values, _| {
        let matrix = rounded(shape, values, 32, 0, true);
        let parts = Parts {
            zeros: false,
            bf16: false,
        };
        (compressed::packed(&matrix, parts), matrix.weights())
    });
    assert_same(settings, &format!("compressed-tensors 4-bit{TOLD}"), models);
}

#[test]
fn fp8() {
    let settings = json!({
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    });
    let models = models(settings.clone(), |shape, _, seed| {
        // Scales of that size give weights as large as the model's.
        let mut matrix = Fp8::new(shape, (128, 128), seed);
        matrix
            .scales
            .iter_mut()
            .for_each(|scale| *scale = 1.0 / 4096.0);
        let scales = [matrix.blocks.0, matrix.blocks.1];
        let tensors = matrix.tensors("weight_scale_inv", Dtype::BF16, &scales);
        (tensors, matrix.weights())
    });
    assert_same(settings, &format!("fp8{TOLD}"), models);
}

/// The older way to say it, in a file of its own.
#[test]
fn quantize_config_json() {
    let settings = json!({"bits": 4, "group_size": 32, "desc_act": false, "sym": true});
    let (quantised, reference) = models(Value::Null, |shape, values, _| {
        let matrix = rounded(shape, values, 32, 1, true);
        (gptq::packed(&matrix, 1, true), matrix.weights())
    });
    let path = quantised.path().join("quantize_config.json");
    fs::write(path, settings.to_string()).unwrap();
    assert_same(
        settings,
        &format!("gptq 4-bit{TOLD}"),
        (quantised, reference),
    );
}
