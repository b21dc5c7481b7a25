//! The estimate of a model's memory against what loading it allocates.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use candle_core::{DType, Device};
use qwen3_vl::compute::Compute;
use qwen3_vl::config::{Config, Quantization};
use qwen3_vl::model::Model;
use qwen3_vl::model::footprint::weights_bytes;
use qwen3_vl::weights::gguf::{Gguf, GgufModel};
use qwen3_vl::weights::{QuantizeAtLoad, Target, Weights};
use qwen3_vl_testing::{Checkpoint, Format, write_checkpoint, write_wide, write_wide_experts};

use crate::{ALONE, NOW};

fn target(store: Option<DType>, quantize_at_load: QuantizeAtLoad) -> Target {
    Target {
        store,
        quantize_at_load,
        ..Target::cpu()
    }
}

fn config(folder: &Path) -> Config {
    let read = |name: &str| fs::read(folder.join(name));
    let mut config = Config::from_json(&read("config.json").unwrap()).unwrap();
    if let Ok(older) = read("quantize_config.json") {
        config.quantization = Some(Quantization::from_quantize_config(&older).unwrap());
    }
    config
}

/// That the estimate is within a hundredth of what is allocated.
fn assert_estimated(what: &str, config: Config, mut weights: Weights) {
    weights.set_quantization(config.quantization.clone());
    let estimate = weights_bytes(&config, &weights, weights.quantize_at_load()).unwrap();
    let before = NOW.load(Ordering::Relaxed);
    let model = Model::load(config, &mut weights, Device::Cpu).unwrap();
    let taken = NOW.load(Ordering::Relaxed) - before;
    drop(model);
    let error = estimate.abs_diff(taken as u64);
    assert!(
        error <= estimate / 100,
        "{what}: {estimate} estimated, {taken} taken"
    );
}

fn open(folder: &Path, target: Target) -> (Config, Weights) {
    (config(folder), Weights::open(folder, target).unwrap())
}

/// Each of them with each arithmetic.
fn both<T>(all: &[T]) -> impl Iterator<Item = (&T, Compute)> {
    let each = |of| [(of, Compute::Exact), (of, Compute::Fast)];
    all.iter().flat_map(each)
}

/// Threads and their queues are not the model's.
fn warm_up() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    for rounded in QuantizeAtLoad::ALL {
        let (config, mut weights) = open(&folder, target(None, rounded));
        Model::load(config, &mut weights, Device::Cpu).unwrap();
    }
}

#[test]
fn weights_take_what_was_estimated() {
    let _alone = ALONE.lock().unwrap();
    warm_up();
    for (format, compute) in both(&Format::ALL) {
        let folder = tempfile::tempdir().unwrap();
        format.write(folder.path()).unwrap();
        let what = format!("{}, {compute:?}", format.name);
        let target = || Target {
            compute: Some(compute),
            ..Target::cpu()
        };
        if format.is_gguf() {
            let entries = fs::read_dir(folder.path()).unwrap();
            let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            let is_vision = |path: &PathBuf| path.to_string_lossy().contains("mmproj");
            let (vision, text): (Vec<_>, Vec<_>) = paths.into_iter().partition(is_vision);
            let read = |path: PathBuf| Gguf::from_bytes(fs::read(path).unwrap()).unwrap();
            let vision = vision.into_iter().map(read).next().unwrap();
            let mut text = text.into_iter().map(read);
            let first = text.next().unwrap();
            let model = GgufModel::new(first, text.collect(), vision).unwrap();
            let config = Config::from_gguf(&model).unwrap();
            let weights = Weights::gguf(&model, target()).unwrap();
            assert_estimated(&what, config, weights);
        } else {
            let (config, weights) = open(folder.path(), target());
            assert_estimated(&what, config, weights);
        }
    }
}

#[test]
fn rounded_and_converted_weights_take_what_was_estimated() {
    let _alone = ALONE.lock().unwrap();
    warm_up();
    type Write = fn(&Path);
    let writers: [(&str, Write); 4] = [
        ("tied", |dir| {
            write_checkpoint(dir, Checkpoint::DenseTied).unwrap()
        }),
        ("untied", |dir| {
            write_checkpoint(dir, Checkpoint::DenseUntied).unwrap()
        }),
        ("wide", |dir| {
            write_wide(dir, |_, _, values| values).unwrap()
        }),
        ("experts", |dir| {
            write_wide_experts(dir, 2, |_, _, values| values).unwrap()
        }),
    ];
    for (name, write) in writers {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        for store in [None, Some(DType::BF16), Some(DType::F32)] {
            let all = [&[QuantizeAtLoad::None][..], &QuantizeAtLoad::ALL].concat();
            for (rounded, compute) in both(&all) {
                let target = Target {
                    compute: Some(compute),
                    ..target(store, *rounded)
                };
                let (config, weights) = open(folder.path(), target);
                let what = format!("{name}, {store:?}, {rounded:?}, {compute:?}");
                assert_estimated(&what, config, weights);
            }
        }
    }
}
