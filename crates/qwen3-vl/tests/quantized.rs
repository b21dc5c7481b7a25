//! Models whose weights are rounded while they are loaded.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;
use std::sync::atomic::AtomicBool;

use qwen3_vl::engine::runner::Runner;
use qwen3_vl::load::{
    DeviceChoice, DtypeChoice, LoadOptions, ModelSource, Quantization, load, load_runner,
};
use qwen3_vl::model::{Chunk, KvCache};
use qwen3_vl::testing::{Checkpoint, write_checkpoint, write_tokenizer, write_wide};

fn options(folder: &Path, quantization: Quantization) -> LoadOptions {
    LoadOptions {
        source: ModelSource::Folder(folder.into()),
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization,
    }
}

fn runner(folder: &Path, quantization: Quantization) -> Runner {
    let never = AtomicBool::new(false);
    let (_, runner) = load_runner(&options(folder, quantization), &mut |_| (), &never).unwrap();
    runner
}

fn checkpoint(which: Checkpoint) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path(), which).unwrap();
    write_tokenizer(folder.path()).unwrap();
    folder
}

/// Scores after each of some tokens.
fn logits(runner: &Runner) -> Vec<Vec<f32>> {
    let model = &runner.parts.model;
    let ids: Vec<u32> = (0..60).map(|i| i * 2503 % 150_000).collect();
    let positions = (0..60).map(|p| [p; 3]).collect();
    let chunk = Chunk {
        ids,
        positions,
        vision: Vec::new(),
    };
    let mut kv = KvCache::new(&model.kv);
    let hidden = model.text.forward(&chunk, &mut kv).unwrap();
    model.text.logits(&hidden).unwrap().to_vec2().unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Random weights are the worst case: nothing in them is redundant.
#[test]
fn scores_stay_close_to_those_of_the_stored_weights() {
    let folder = tempfile::tempdir().unwrap();
    write_wide(folder.path()).unwrap();
    write_tokenizer(folder.path()).unwrap();
    let want = logits(&runner(folder.path(), Quantization::None));
    for (quantization, least) in [(Quantization::Q8_0, 0.999), (Quantization::Q4K, 0.99)] {
        let got = logits(&runner(folder.path(), quantization));
        let worst = got
            .iter()
            .zip(&want)
            .map(|(a, b)| cosine(a, b))
            .fold(1.0, f64::min);
        println!("{quantization:?}: {worst}");
        assert!(
            worst > least && worst < 0.999_999_9,
            "{quantization:?}: {worst}"
        );
    }
}

#[test]
fn eight_bits_take_34_bytes_for_32_weights() {
    for which in [Checkpoint::DenseTied, Checkpoint::DenseUntied] {
        let folder = checkpoint(which);
        let bytes = |quantization| -> Vec<usize> {
            let runner = runner(folder.path(), quantization);
            runner
                .parts
                .model
                .text
                .linears()
                .map(|l| l.bytes())
                .collect()
        };
        let (stored, rounded) = (bytes(Quantization::None), bytes(Quantization::Q8_0));
        assert_eq!(stored.len(), 4 * 7 + 1);
        // Stored as f32.
        let want: Vec<usize> = stored.iter().map(|bytes| bytes / 4 * 34 / 32).collect();
        assert_eq!(rounded, want, "{which:?}");
    }
}

#[test]
fn what_was_rounded_is_told() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    for (quantization, told) in [
        (Quantization::None, None),
        (Quantization::Q8_0, Some("q8-0")),
        // Its widths are 128 and 384.
        (Quantization::Q4K, Some("q4-k, 29 of 29 layers q8-0")),
    ] {
        let options = options(&folder, quantization);
        let backend = load(&options, &mut |_| (), &AtomicBool::new(false)).unwrap();
        assert_eq!(backend.model().quantization.as_deref(), told);
    }
}
