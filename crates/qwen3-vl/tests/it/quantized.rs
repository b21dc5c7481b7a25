//! Models whose weights are quantized at load.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::load::{LoadOptions, ModelSource, load, load_runner};
use qwen3_vl::model::{Chunk, SequenceSlice, Workspace};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_testing::{
    Checkpoint, write_checkpoint, write_tokenizer, write_wide, write_wide_experts,
};

fn options(folder: &Path, quantization: QuantizeAtLoad) -> LoadOptions {
    LoadOptions {
        source: ModelSource::Folder(folder.into()),
        mmproj: None,
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization,
        compute: None,
        kv_memory: None,
    }
}

fn runner(folder: &Path, quantization: QuantizeAtLoad) -> Runner {
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

/// Logits after each of some tokens, in one pass.
fn logits(runner: &Runner, tokens: u32) -> Vec<Vec<f32>> {
    let model = &runner.parts.model;
    let ids: Vec<u32> = (0..tokens).map(|i| i * 2503 % 150_000).collect();
    let positions = ids.iter().zip(0..).map(|(_, p)| [p; 3]).collect();
    let chunk = Chunk {
        ids,
        positions,
        vision: Vec::new(),
    };
    let mut kv = model.new_state();
    let mut parts = [SequenceSlice {
        chunk: &chunk,
        state: &mut kv,
        outputs: chunk.len(),
    }];
    let logits = model.text.forward(&mut parts, &mut Workspace::default());
    logits.unwrap().unwrap().to_vec2().unwrap()
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

/// The linear layers of the language model after candle's own rounding, in f32.
fn rounded_by_candle(name: &str, shape: &[usize], values: Vec<f32>, dtype: GgmlDType) -> Vec<f32> {
    let is_linear = name.contains("language_model") && name.ends_with("_proj.weight");
    let is_stack = name.contains(".mlp.experts.");
    if !is_linear && !is_stack && name != "lm_head.weight" {
        return values;
    }
    // Rows of a linear layer are the columns of an expert in a stack.
    let turned = |tensor: Tensor| match is_stack {
        true => tensor.transpose(1, 2).unwrap().contiguous().unwrap(),
        false => tensor,
    };
    let tensor = turned(Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    let rounded = QTensor::quantize(&tensor, dtype).unwrap();
    let wide = turned(rounded.dequantize(&Device::Cpu).unwrap());
    wide.flatten_all().unwrap().to_vec1().unwrap()
}

type Change<'a> = &'a dyn Fn(&str, &[usize], Vec<f32>) -> Vec<f32>;

/// A checkpoint whose rows are whole blocks, with its weights changed.
fn wide(experts: bool, change: Change<'_>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    match experts {
        // All of them work: which ones a token goes to would depend on how its values are rounded.
        true => write_wide_experts(folder.path(), 4, change).unwrap(),
        false => write_wide(folder.path(), change).unwrap(),
    }
    write_tokenizer(folder.path()).unwrap();
    folder
}

#[test]
fn logits_are_those_of_weights_that_candle_has_rounded() {
    for experts in [false, true] {
        let stored = wide(experts, &|_, _, values| values);
        for (quantization, dtype) in [
            (QuantizeAtLoad::Q8_0, GgmlDType::Q8_0),
            (QuantizeAtLoad::Q4K, GgmlDType::Q4K),
        ] {
            let rounded = wide(experts, &|name, shape, values| {
                rounded_by_candle(name, shape, values, dtype)
            });
            let ours = runner(stored.path(), quantization);
            let reference = runner(rounded.path(), QuantizeAtLoad::None);
            // Each layer's input is rounded too, by the same rule in a pass of few tokens and of
            // many.
            for (tokens, least) in [(60, 0.999), (20, 0.999)] {
                let (got, want) = (logits(&ours, tokens), logits(&reference, tokens));
                let rows = got.iter().zip(&want);
                let worst = rows.map(|(a, b)| cosine(a, b)).fold(1.0, f64::min);
                let case = format!("{quantization:?}, {tokens} tokens, experts: {experts}");
                assert!(worst > least, "{case}: {worst}");
            }
        }
    }
}

/// A token's logits have the same bits in a pass of many tokens and in one of few, alone and beside
/// another sequence.
#[test]
fn a_token_does_not_depend_on_other_tokens() {
    let folder = checkpoint(Checkpoint::DenseTied);
    independent(&runner(folder.path(), QuantizeAtLoad::Q8_0));
}

/// Neither do its experts.
#[test]
fn experts_of_a_token_do_not_depend_on_other_tokens() {
    let folder = tempfile::tempdir().unwrap();
    write_wide_experts(folder.path(), 2, |_, _, values| values).unwrap();
    write_tokenizer(folder.path()).unwrap();
    for quantization in [QuantizeAtLoad::Q8_0, QuantizeAtLoad::Q4K] {
        independent(&runner(folder.path(), quantization));
    }
}

pub(super) fn independent(runner: &Runner) {
    let model = &runner.parts.model;
    let chunk = |ids: std::ops::Range<u32>| Chunk {
        positions: ids.clone().map(|position| [position; 3]).collect(),
        ids: ids.map(|i| i * 2503 % 150_000).collect(),
        vision: Vec::new(),
    };
    let pass = |parts: &mut [SequenceSlice<'_>]| -> Vec<Vec<f32>> {
        let logits = model.text.forward(parts, &mut Workspace::default());
        logits.unwrap().unwrap().to_vec2().unwrap()
    };
    let whole = chunk(0..200);
    let mut kv = model.new_state();
    let want = pass(&mut [SequenceSlice {
        chunk: &whole,
        state: &mut kv,
        outputs: 2,
    }]);
    for cuts in [[60, 100], [3, 129], [130, 198], [48, 97]] {
        let (mut kv, mut got) = (model.new_state(), Vec::new());
        for range in [0..cuts[0], cuts[0]..cuts[1], cuts[1]..200] {
            let (part, other) = (chunk(range.clone()), chunk(0..range.end % 50 + 2));
            let mut beside = model.new_state();
            got = pass(&mut [
                SequenceSlice {
                    chunk: &other,
                    state: &mut beside,
                    outputs: 1,
                },
                SequenceSlice {
                    chunk: &part,
                    state: &mut kv,
                    outputs: 2,
                },
            ]);
        }
        assert_eq!(got[1..], want, "cut at {cuts:?}");
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
        let (stored, rounded) = (bytes(QuantizeAtLoad::None), bytes(QuantizeAtLoad::Q8_0));
        assert_eq!(stored.len(), 4 * 7 + 1);
        // The checkpoint stores f32.
        let want: Vec<usize> = stored.iter().map(|bytes| bytes / 4 * 34 / 32).collect();
        assert_eq!(rounded, want, "{which:?}");
    }
}

#[test]
fn what_was_rounded_is_told() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    for (quantization, told) in [
        (QuantizeAtLoad::None, None),
        (QuantizeAtLoad::Q8_0, Some("q8-0")),
        (QuantizeAtLoad::Fp8, Some("fp8")),
        // The model's widths are 128 and 384.
        (QuantizeAtLoad::Q4K, Some("q4-k, 29 of 29 layers q8-0")),
    ] {
        let options = options(&folder, quantization);
        let backend = load(&options, &mut |_| (), &AtomicBool::new(false)).unwrap();
        assert_eq!(backend.model().quantization.as_deref(), told);
    }
}
