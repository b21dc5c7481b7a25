//! `quantization=fp8`: the bytes and scales that transformers makes of the same weights.

use std::sync::atomic::AtomicBool;

use qwen3_vl::cpu::fp8::Fp8Matrix;
use qwen3_vl::load::{LoadOptions, load_runner};
use qwen3_vl::model::linear::Linear;
use qwen3_vl::weights::{QuantizeAtLoad, Target, Weights};
use qwen3_vl_testing::weights::hash_fill;
use qwen3_vl_testing::{Format, data_dir, write_tokenizer, write_wide, write_wide_experts};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::packed::fp8::e4m3;
use crate::support::demo;

const SIDE: usize = 128;

/// The matrix of `tools/reference/fp8.py`, as `Fp8Quantize` rounds it.
#[test]
fn blocks_are_those_of_transformers() {
    let file = std::fs::read(data_dir().join("tables/fp8.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let n = 2 * SIDE;
    let values: Vec<f32> = hash_fill("fp8.weight", &[n, n], 7)
        .into_iter()
        .enumerate()
        .map(
            |(index, value)| match (index / n < SIDE, index % n < SIDE) {
                (true, false) => 0.0,
                _ => value * value * value,
            },
        )
        .collect();
    let rows = |rows: std::ops::Range<usize>, out: &mut [f32]| {
        out.copy_from_slice(&values[rows.start * n..rows.end * n]);
    };
    let matrix = Fp8Matrix::quantize((n, n), rows);
    let scales: Vec<u8> = matrix
        .scales()
        .iter()
        .flat_map(|s| s.to_le_bytes())
        .collect();
    assert!(matrix.values() == file.tensor("bytes").unwrap().data());
    assert!(
        scales == file.tensor("scales").unwrap().data(),
        "{:?}",
        matrix.scales()
    );
}

/// A stored FP8 checkpoint, its weights by the formula in f32: value * scale. Every block has a
/// largest value, so that rounding those weights gives the stored bytes again.
#[test]
fn rounding_stored_weights_again_gives_their_bytes() {
    let stored = tempfile::tempdir().unwrap();
    Format::find("fp8-block-f32")
        .unwrap()
        .write(stored.path())
        .unwrap();
    let file = std::fs::read(stored.path().join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let wide = tempfile::tempdir().unwrap();
    let mut tensors = Vec::new();
    let mut layers = Vec::new();
    for (name, tensor) in file.tensors() {
        if name.ends_with("_scale_inv") {
            continue;
        }
        if tensor.dtype() != Dtype::F8_E4M3 {
            tensors.push((
                name,
                tensor.dtype(),
                tensor.shape().to_vec(),
                tensor.data().to_vec(),
            ));
            continue;
        }
        let scales = file.tensor(&format!("{name}_scale_inv")).unwrap();
        let scales: Vec<f32> = scales
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        let (rows, columns) = (tensor.shape()[0], tensor.shape()[1]);
        let weight = |(index, byte): (usize, &u8)| {
            let block = index / columns / SIDE * columns.div_ceil(SIDE) + index % columns / SIDE;
            (e4m3(*byte) * scales[block]).to_le_bytes()
        };
        let values = tensor.data().iter().enumerate().flat_map(weight).collect();
        tensors.push((name.clone(), Dtype::F32, vec![rows, columns], values));
        layers.push((name, (rows, columns), tensor.data().to_vec(), scales));
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let path = wide.path().join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();
    let target = Target {
        quantize_at_load: QuantizeAtLoad::Fp8,
        ..Target::cpu()
    };
    let weights = Weights::open(wide.path(), target).unwrap();
    assert!(layers.len() == 14);
    for (name, shape, bytes, scales) in layers {
        let layer = name.strip_suffix(".weight").unwrap();
        let layer = Linear::load_rounded(&weights, layer, shape).unwrap();
        let matrix = layer.fp8().unwrap();
        assert!(matrix.values() == bytes, "{name}");
        for (got, want) in matrix.scales().iter().zip(&scales) {
            // The inverse of the inverse, each rounded.
            assert!(
                (got - want).abs() <= want * 2.0 * f32::EPSILON,
                "{name}: {got}, not {want}"
            );
        }
    }
}

/// Layers, experts and the head are rounded; norms, embeddings, routers and the vision tower are
/// not.
#[test]
fn the_same_layers_are_rounded_as_to_q8_0() {
    for experts in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        match experts {
            true => write_wide_experts(folder.path(), 2, |_, _, values| values).unwrap(),
            false => write_wide(folder.path(), |_, _, values| values).unwrap(),
        }
        write_tokenizer(folder.path()).unwrap();
        let rounded = |quantization| {
            let options = LoadOptions {
                quantization,
                ..demo::options(folder.path())
            };
            let (_, runner) = load_runner(&options, &mut |_| (), &AtomicBool::new(false)).unwrap();
            let linears = runner.parts.model.text.linears();
            linears
                .map(|layer| layer.format().is_some() || layer.fp8().is_some())
                .collect::<Vec<bool>>()
        };
        let fp8 = rounded(QuantizeAtLoad::Fp8);
        assert!(fp8.iter().all(|rounded| *rounded));
        assert_eq!(fp8, rounded(QuantizeAtLoad::Q8_0));
    }
}

/// It says so before it is loaded.
#[test]
fn a_quantised_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    Format::find("fp8-block")
        .unwrap()
        .write(folder.path())
        .unwrap();
    write_tokenizer(folder.path()).unwrap();
    let options = LoadOptions {
        quantization: QuantizeAtLoad::Fp8,
        ..demo::options(folder.path())
    };
    let error = qwen3_vl::load::check(&options).unwrap_err().to_string();
    assert!(error.contains("quantised already (fp8"), "{error}");
}
