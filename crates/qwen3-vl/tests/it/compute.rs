//! `compute`: which arithmetic a load has, and what bf16 products make of a model's numbers. They
//! run by the instruction's definition here, whatever the CPU has.
#![allow(clippy::print_stdout)]

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use qwen3_vl::compute::Compute;
use qwen3_vl::config::Config;
use qwen3_vl::cpu::bf16::Bf16Isa;
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::load::{LoadOptions, load, load_runner};
use qwen3_vl::model::Model;
use qwen3_vl::model::linear::Linear;
use qwen3_vl::weights::{QuantizeAtLoad, Target, Weights};
use qwen3_vl_testing::{Check, Checkpoint, Format, parity};

use super::support::demo;

/// Norm of all differences of vision tokens or logits, relative to theirs: values are rounded to 8
/// bits in a few dozen products, one behind the other.
const TOLERANCE: f64 = 2e-2;
/// What f32 sums in another order may change.
const EXACT: f64 = 1e-4;

/// The folder's model with bf16 products.
fn fast(folder: &Path) -> Model {
    let config = Config::from_json(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let target = Target {
        compute: Some(Compute::Fast),
        bf16: Some(Bf16Isa::Emulated),
        ..Target::cpu()
    };
    let device = target.device.clone();
    let mut weights = Weights::open(folder, target).unwrap();
    Model::load(config, &mut weights, device).unwrap()
}

/// That numbers are those of transformers, but for rounding, which shows.
fn all_are_close(runner: &mut Runner, case: parity::Case) {
    let checks = parity::check(runner, case, f64::INFINITY).unwrap();
    for part in ["vision embeddings", "deepstack_0", "logits"] {
        let found: Vec<&Check> = checks.iter().filter(|c| c.name.contains(part)).collect();
        assert!(!found.is_empty(), "{part}");
        for check in found {
            let error = check.worst.unwrap().relative_norm;
            println!("{:50} {error:.2e}", check.name);
            assert!(error < TOLERANCE, "{check:?}");
            assert!(error > EXACT, "not in bf16: {check:?}");
        }
    }
}

fn of_checkpoint(checkpoint: Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let mut runner = parity::load(checkpoint, folder.path(), demo::options).unwrap();
    let bytes = |model: &Model| model.text.linears().map(Linear::bytes).sum::<usize>();
    let exact = bytes(&runner.parts.model);
    runner.parts.model = fast(folder.path());
    // The file has f32; a matrix is filled up to 64 rows.
    assert!(bytes(&runner.parts.model) < exact * 3 / 5);
    let mut cases = parity::cases(checkpoint).into_iter();
    all_are_close(&mut runner, cases.find(|case| case.name == "even").unwrap());
}

#[test]
fn a_tied_model_in_bf16_is_close_to_transformers() {
    of_checkpoint(Checkpoint::DenseTied);
}

#[test]
fn an_untied_model_in_bf16_is_close_to_transformers() {
    of_checkpoint(Checkpoint::DenseUntied);
}

#[test]
fn experts_in_bf16_are_close_to_transformers() {
    of_checkpoint(Checkpoint::Moe);
}

#[test]
fn fp8_in_bf16_is_close_to_transformers() {
    let format = Format::find("fp8-block").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut runner = parity::load_format(format, folder.path(), demo::options).unwrap();
    let bytes = |model: &Model| model.text.linears().map(Linear::bytes).collect::<Vec<_>>();
    let exact = bytes(&runner.parts.model);
    runner.parts.model = fast(folder.path());
    // FP8 stays as it is, and the head has been in bf16.
    assert_eq!(bytes(&runner.parts.model), exact);
    all_are_close(&mut runner, parity::format_cases(format)[0]);
}

/// A layer's result for a row, whatever else is in the pass.
#[test]
fn a_token_is_the_same_in_every_pass() {
    use candle_core::{Device, Tensor};
    let folder = demo::demo();
    let model = fast(folder.path());
    let hidden = model
        .text
        .embeddings()
        .lookup(&[0])
        .unwrap()
        .dim(1)
        .unwrap();
    let linears: Vec<&Linear> = model.text.linears().collect();
    // Queries of the first layer, and the head.
    for layer in [linears[0], linears[linears.len() - 1]] {
        let x = Tensor::randn(0f32, 1.0, (40, hidden), &Device::Cpu).unwrap();
        let rows = |x: &Tensor| layer.forward(x).unwrap().to_vec2::<f32>().unwrap();
        let all = rows(&x);
        for (row, expected) in all.iter().enumerate() {
            assert_eq!(&rows(&x.narrow(0, row, 1).unwrap())[0], expected);
        }
        assert_eq!(rows(&x.narrow(0, 3, 17).unwrap()), all[3..20]);
    }
}

/// The arithmetic of a load that asks for `compute`.
fn loaded(options: &LoadOptions, compute: Option<Compute>) -> Compute {
    let options = LoadOptions {
        compute,
        ..options.clone()
    };
    let never = AtomicBool::new(false);
    let (_, runner) = load_runner(&options, &mut |_| (), &never).unwrap();
    runner.parts.model.compute
}

#[test]
fn weights_that_are_quantised_are_fast_unless_asked_otherwise() {
    let folder = demo::demo();
    let plain = demo::options(folder.path());
    assert_eq!(loaded(&plain, None), Compute::Exact);
    assert_eq!(loaded(&plain, Some(Compute::Fast)), Compute::Fast);
    let rounded = LoadOptions {
        quantization: QuantizeAtLoad::Q8_0,
        ..plain
    };
    assert_eq!(loaded(&rounded, None), Compute::Fast);
    assert_eq!(loaded(&rounded, Some(Compute::Exact)), Compute::Exact);
    for name in ["awq", "fp8-block", "gguf"] {
        let folder = tempfile::tempdir().unwrap();
        let options = |folder: &Path| LoadOptions {
            compute: None,
            ..demo::options(folder)
        };
        let format = Format::find(name).unwrap();
        let runner = parity::load_format(format, folder.path(), options).unwrap();
        assert_eq!(runner.parts.model.compute, Compute::Fast, "{name}");
    }
}

#[test]
fn what_is_used_is_told() {
    let folder = demo::demo();
    let options = LoadOptions {
        compute: Some(Compute::Fast),
        ..demo::options(folder.path())
    };
    let mut told = Vec::new();
    let never = AtomicBool::new(false);
    let backend = load(&options, &mut |progress| told.push(progress.what), &never).unwrap();
    assert_eq!(backend.model().compute, Some("fast"));
    let lacks = told.iter().any(|what| what.contains("no bf16 products"));
    assert_eq!(lacks, Bf16Isa::of_this_cpu().is_none(), "{told:?}");
}
