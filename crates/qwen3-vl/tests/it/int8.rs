//! `compute=fast` of checkpoints that are quantised: their weights are multiplied as integers, with
//! activations in 8 bits. What the rounding of activations changes is stated here; the weights are
//! those of exact mode, whose logits [`super::formats`] compares within 1e-3.
#![allow(clippy::print_stdout)]

use std::path::Path;

use qwen3_vl::compute::Compute;
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::load::LoadOptions;
use qwen3_vl::model::{Chunk, SequenceSlice, Workspace};
use qwen3_vl_testing::{Check, Format, Golden, parity};

use super::quantized::independent;
use super::support::demo;

/// Norm of all differences of a step's logits from those of transformers in f32, relative to theirs.
const TOLERANCE: f64 = 4e-2;
/// What f32 sums in another order may change.
const EXACT: f64 = 1e-4;
/// Of a single logit, as a share of the root of their mean square.
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
        let logits = checks.iter().filter(|check| check.name.contains("logits"));
        let logits: Vec<&Check> = logits.collect();
        assert!(!logits.is_empty(), "{name}");
        for check in logits {
            let error = check.worst.unwrap().relative_norm;
            println!("{:40} {error:.2e}, {:.2e}", check.name, check.difference);
            assert!(error < TOLERANCE, "{check:?}");
            assert!(error > EXACT, "not rounded: {check:?}");
        }
    }
    tokens_are_the_same_if_they_can_be(format, &runner);
}

/// In each of the reference's 24 greedy steps no logit is further off than a tolerance, and where
/// the best two are further apart than two of them, the best one is the reference's token.
fn tokens_are_the_same_if_they_can_be(format: &Format, fast: &Runner) {
    let folder = tempfile::tempdir().unwrap();
    let exact = parity::load_format(format, folder.path(), demo::options).unwrap();
    let golden = Golden::load(format.name, "text").unwrap();
    let greedy = golden.i32("greedy").unwrap();
    let mut ids = golden.i32("input_ids").unwrap();
    ids.extend(&greedy[..greedy.len() - 1]);
    let steps = |runner: &Runner| logits(runner, &ids, greedy.len());
    let best = |logits: &[f32]| {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.select_nth_unstable_by(1, |a, b| logits[*b].total_cmp(&logits[*a]));
        let margin = logits[order[0]] - logits[order[1]];
        (order[0], f64::from(margin))
    };
    let (mut sure, mut most) = (0, 0f64);
    for ((exact, fast), token) in steps(&exact).iter().zip(steps(fast)).zip(greedy) {
        let squares = exact.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        let of_one = OF_ONE * (squares / exact.len() as f64).sqrt();
        let off = exact.iter().zip(&fast).map(|(a, b)| (a - b).abs());
        let off = f64::from(off.fold(0f32, f32::max));
        most = most.max(off / of_one * OF_ONE);
        assert!(off < of_one, "{}: {off} of {of_one}", format.name);
        let (want, margin) = best(exact);
        assert_eq!(want as i32, token);
        if margin > 2.0 * of_one {
            sure += 1;
            assert_eq!(best(&fast).0, want, "{}", format.name);
        }
    }
    println!(
        "{}: {sure} of 24 tokens are sure, off by {most:.2e}",
        format.name
    );
}

/// The logits after each of the last tokens.
fn logits(runner: &Runner, ids: &[i32], outputs: usize) -> Vec<Vec<f32>> {
    let model = &runner.parts.model;
    let chunk = Chunk {
        ids: ids.iter().map(|id| *id as u32).collect(),
        positions: (0..ids.len() as u32).map(|place| [place; 3]).collect(),
        vision: Vec::new(),
    };
    let mut state = model.new_state();
    let mut parts = [SequenceSlice {
        chunk: &chunk,
        state: &mut state,
        outputs,
    }];
    let logits = model.text.forward(&mut parts, &mut Workspace::default());
    logits.unwrap().unwrap().to_vec2().unwrap()
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

/// A token's logits have the same bits in every pass. Not those of `gguf`: it has layers in F16,
/// whose f32 sums have another order in passes of more rows.
#[test]
fn a_token_does_not_depend_on_other_tokens() {
    for name in ["awq", "gptq-desc-act", "ct-8bit", "awq-moe"] {
        println!("{name}");
        independent(&load(name).1);
    }
}
