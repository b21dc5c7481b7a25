//! `compute=fast` of checkpoints that are quantised: their weights are multiplied as integers, with
//! activations in 8 bits. What the rounding of activations changes is stated here; the weights are
//! those of exact mode, whose logits [`super::formats`] compares within 1e-3.
#![allow(clippy::print_stdout)]

use std::path::Path;

use qwen3_vl::compute::Compute;
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::load::LoadOptions;
use qwen3_vl_testing::{Check, Format, Golden, parity};

use super::quantized::independent;
use super::support::demo;

/// Norm of all differences of a step's logits from those of transformers in f32, relative to theirs.
const TOLERANCE: f64 = 3e-2;
/// What f32 sums in another order may change.
const EXACT: f64 = 1e-4;
/// Of a single logit, as a share of their standard deviation, which is here their norm.
const OF_ONE: f64 = 0.15;

fn options(folder: &Path) -> LoadOptions {
    LoadOptions {
        compute: Some(Compute::Fast),
        ..demo::options(folder)
    }
}

fn load(name: &str) -> (&'static Format, Runner) {
    let format = Format::find(name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let runner = parity::load_format(format, folder.path(), options).unwrap();
    (format, runner)
}

fn is_close(name: &str) {
    let (format, mut runner) = load(name);
    for case in parity::format_cases(format) {
        let checks = parity::check(&mut runner, case, f64::INFINITY).unwrap();
        let of = |part: &str| -> Vec<Check> {
            let checks = checks.iter().filter(|check| check.name.contains(part));
            checks.cloned().collect()
        };
        let logits = of("logits");
        assert!(!logits.is_empty(), "{name}");
        for check in &logits {
            let error = check.worst.unwrap().relative_norm;
            println!("{:40} {error:.2e}, {:.2e}", check.name, check.difference);
            assert!(error < TOLERANCE, "{check:?}");
            assert!(error > EXACT, "not rounded: {check:?}");
        }
        // Tokens are the reference's if no step's best two logits are closer than two tolerances.
        let golden = Golden::load(case.checkpoint, case.name).unwrap();
        let want = golden.f32("last_logits").unwrap();
        let squares = want.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        let of_one = OF_ONE * (squares / want.len() as f64).sqrt();
        assert!(
            logits.iter().all(|check| check.difference < of_one),
            "{logits:?}"
        );
        let margin = golden.summary["greedy_margin_min"].as_f64();
        println!("margin {margin:?} of {:.2e}", 2.0 * of_one);
        for check in of("greedy tokens") {
            let must = margin.is_some_and(|margin| margin > 2.0 * of_one);
            assert!(!must || check.difference == 0.0, "{check:?}");
        }
    }
}

macro_rules! formats {
    ($($test:ident: $name:literal;)*) => {$(
        #[test]
        fn $test() {
            is_close($name);
        }
    )*};
}

formats! {
    awq: "awq";
    awq_experts: "awq-moe";
    gptq: "gptq";
    gptq_by_activation: "gptq-desc-act";
    gptq_of_format_2: "gptq-v2";
    gptq_of_8_bits: "gptq-8bit";
    gptq_without_groups: "gptq-column";
    compressed_tensors: "ct";
    compressed_tensors_with_zero_points: "ct-asym";
    compressed_tensors_without_groups: "ct-channel";
    compressed_tensors_of_8_bits: "ct-8bit";
    compressed_tensors_experts: "ct-moe";
    gguf: "gguf";
    gguf_experts: "gguf-moe";
}

/// A token's logits have the same bits in every pass.
#[test]
fn a_token_does_not_depend_on_other_tokens() {
    for name in ["awq", "gptq-desc-act", "ct-8bit", "gguf", "awq-moe"] {
        independent(&load(name).1);
    }
}
