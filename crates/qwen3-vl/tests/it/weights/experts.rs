//! Mixtures of experts in the layouts that files have them in.

use super::*;
use qwen3_vl::model::{Chunk, SequenceSlice, Workspace};
use serde_json::{Value, json};

const LAYERS: usize = 4;
const EXPERTS: usize = 8;

fn layer(index: usize) -> String {
    format!("model.language_model.layers.{index}.mlp")
}

fn folder(which: Checkpoint) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path(), which).unwrap();
    folder
}

/// Logits behind some tokens, of the weights as stored or rounded.
fn logits(folder: &Path, quantize_at_load: QuantizeAtLoad) -> Result<Vec<Vec<f32>>, String> {
    let config = Config::from_json(&fs::read(folder.join("config.json")).unwrap());
    let target = Target {
        quantize_at_load,
        ..Target::cpu()
    };
    let device = target.device.clone();
    let mut weights = Weights::open(folder, target).map_err(|error| error.to_string())?;
    let model = Model::load(config.unwrap(), &mut weights, device);
    let model = model.map_err(|error| error.to_string())?;
    let chunk = Chunk {
        ids: (0..40).map(|i| i * 2503 % 150_000).collect(),
        positions: (0..40).map(|position| [position; 3]).collect(),
        vision: Vec::new(),
    };
    let mut parts = [SequenceSlice {
        chunk: &chunk,
        state: &mut model.new_state(),
        outputs: 40,
    }];
    let scores = model.text.forward(&mut parts, &mut Workspace::default());
    Ok(scores.unwrap().unwrap().to_vec2().unwrap())
}

fn refused(folder: &Path, words: &[&str]) {
    let error = logits(folder, QuantizeAtLoad::None).unwrap_err();
    for word in words {
        assert!(error.contains(word), "{error} lacks {word:?}");
    }
}

type Stored = (Dtype, Vec<usize>, Vec<u8>);

/// The matrices of a stack `[experts, rows, columns]`, each turned: `[columns, rows]`.
fn turned((dtype, shape, bytes): &Stored) -> Vec<Stored> {
    let [_, rows, columns] = shape[..] else {
        panic!("{shape:?} is no stack")
    };
    let size = dtype.bitsize() / 8;
    let matrices = bytes.chunks(rows * columns * size);
    let turn = |matrix: &[u8]| {
        let places = (0..columns).flat_map(|column| (0..rows).map(move |row| (row, column)));
        let value =
            |(row, column): (usize, usize)| &matrix[(row * columns + column) * size..][..size];
        let bytes = places.flat_map(value).copied().collect();
        (*dtype, vec![columns, rows], bytes)
    };
    matrices.map(turn).collect()
}

/// Stores each expert by itself, as quantised files do.
fn by_themselves(all: &mut Tensors) {
    for index in 0..LAYERS {
        let name = format!("{}.experts", layer(index));
        let gate_up = turned(&all.remove(&format!("{name}.gate_up_proj")).unwrap());
        let down = turned(&all.remove(&format!("{name}.down_proj")).unwrap());
        for (expert, (dtype, shape, bytes)) in gate_up.into_iter().enumerate() {
            let (gate, up) = bytes.split_at(bytes.len() / 2);
            for (part, bytes) in [("gate", gate), ("up", up)] {
                let matrix = (dtype, vec![shape[0] / 2, shape[1]], bytes.to_vec());
                all.insert(format!("{name}.{expert}.{part}_proj.weight"), matrix);
            }
        }
        for (expert, matrix) in down.into_iter().enumerate() {
            all.insert(format!("{name}.{expert}.down_proj.weight"), matrix);
        }
    }
}

/// Transposes the stacks: the layout of transformers 5's parameters.
fn as_linear_layers(all: &mut Tensors) {
    for (name, stored) in all.iter_mut() {
        if name.contains(".mlp.experts.") {
            let matrices = turned(stored);
            let shape = [&[EXPERTS][..], &matrices[0].1].concat();
            let bytes = matrices.into_iter().flat_map(|(_, _, bytes)| bytes);
            *stored = (stored.0, shape, bytes.collect());
        }
    }
}

/// Moves every second tensor to a second file.
fn in_two_files(folder: &Path) {
    let mut parts = [Tensors::new(), Tensors::new()];
    let mut all: Vec<_> = tensors(folder).into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for (index, (name, tensor)) in all.into_iter().enumerate() {
        parts[index % 2].insert(name, tensor);
    }
    let mut places = serde_json::Map::new();
    for (index, part) in parts.iter().enumerate() {
        write(folder, part);
        let file = format!("model-0000{}-of-00002.safetensors", index + 1);
        fs::rename(folder.join(WEIGHTS), folder.join(&file)).unwrap();
        places.extend(part.keys().map(|name| (name.clone(), json!(file))));
    }
    let index = json!({"weight_map": places}).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

#[test]
fn experts_are_the_same_in_every_layout() {
    let stacked = folder(Checkpoint::Moe);
    let changed = |change: fn(&mut Tensors)| {
        let copy = folder(Checkpoint::Moe);
        let mut all = tensors(copy.path());
        change(&mut all);
        write(copy.path(), &all);
        copy
    };
    let folders = [changed(as_linear_layers), changed(by_themselves), {
        let shards = folder(Checkpoint::Moe);
        in_two_files(shards.path());
        shards
    }];
    for quantization in [QuantizeAtLoad::None, QuantizeAtLoad::Q8_0] {
        let wanted = logits(stacked.path(), quantization).unwrap();
        for folder in &folders {
            assert!(logits(folder.path(), quantization).unwrap() == wanted);
        }
    }
}

/// The dense model with some of its layers as mixtures of one expert.
fn with_one_expert(step: usize, dense: &[usize], sparse: &[usize]) -> TempDir {
    let copy = folder(Checkpoint::DenseUntied);
    demo::edit(copy.path(), "config.json", |config| {
        config["model_type"] = json!("qwen3_vl_moe");
        let text = config["text_config"].as_object_mut().unwrap();
        let inner = text["intermediate_size"].clone();
        let Value::Object(experts) = json!({
            "num_experts": 1,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": inner,
            "decoder_sparse_step": step,
            "mlp_only_layers": dense,
        }) else {
            unreachable!()
        };
        text.extend(experts);
    });
    let mut all = tensors(copy.path());
    let hidden = all["model.language_model.norm.weight"].clone();
    for index in sparse {
        let name = layer(*index);
        for part in ["gate", "up", "down"] {
            let matrix = all.remove(&format!("{name}.{part}_proj.weight")).unwrap();
            all.insert(format!("{name}.experts.0.{part}_proj.weight"), matrix);
        }
        let router = (hidden.0, [&[1][..], &hidden.1].concat(), hidden.2.clone());
        all.insert(format!("{name}.gate.weight"), router);
    }
    write(copy.path(), &all);
    copy
}

/// The weight of a single expert is 1. So the logits are the dense model's, whichever layers have
/// one.
#[test]
fn an_expert_alone_is_a_dense_layer() {
    let dense = folder(Checkpoint::DenseUntied);
    let wanted = logits(dense.path(), QuantizeAtLoad::None).unwrap();
    for (step, only_dense, sparse) in [
        (1, &[][..], &[0, 1, 2, 3][..]),
        (1, &[1, 2], &[0, 3]),
        (2, &[], &[1, 3]),
        (2, &[3], &[1]),
        (3, &[], &[2]),
        (9, &[], &[]),
    ] {
        let mixed = with_one_expert(step, only_dense, sparse);
        assert!(logits(mixed.path(), QuantizeAtLoad::None).unwrap() == wanted);
    }
    // The configuration and the file disagree on which layers are sparse.
    let mixed = with_one_expert(2, &[], &[0, 2]);
    refused(
        mixed.path(),
        &["layers.0.mlp.gate_proj.weight", "is missing"],
    );
    let mixed = with_one_expert(2, &[1], &[1, 3]);
    refused(
        mixed.path(),
        &["layers.1.mlp.gate_proj.weight", "is missing"],
    );
}

#[test]
fn stacks_that_do_not_fit_are_named() {
    let stack = format!("{}.experts.gate_up_proj", layer(2));
    for (shape, words) in [
        (
            vec![7, 64, 96],
            ["experts.7.gate_proj.weight", "is missing"],
        ),
        (vec![9, 64, 96], ["have no place", "experts.8."]),
        (vec![8, 60, 96], [&*stack, "[8, 64, 96]"]),
        (vec![8, 64, 95], [&*stack, "[8, 64, 96]"]),
        (vec![8 * 64, 96], [&*stack, "no stack"]),
        (vec![8, 64, 96, 1], [&*stack, "no stack"]),
    ] {
        let copy = folder(Checkpoint::Moe);
        let mut all = tensors(copy.path());
        let bytes = vec![0; 4 * shape.iter().product::<usize>()];
        all.insert(stack.clone(), (Dtype::F32, shape, bytes));
        write(copy.path(), &all);
        refused(copy.path(), &words);
    }
}

#[test]
fn experts_that_are_missing_are_named() {
    for missing in ["experts.5.up_proj", "experts.7.down_proj", "gate"] {
        let copy = folder(Checkpoint::Moe);
        let mut all = tensors(copy.path());
        by_themselves(&mut all);
        let name = format!("{}.{missing}.weight", layer(3));
        all.remove(&name).unwrap();
        write(copy.path(), &all);
        refused(copy.path(), &[&name, "is missing"]);
    }
}
