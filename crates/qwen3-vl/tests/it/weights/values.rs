//! Values of weights: finite or not.

use super::ask::*;
use super::*;
use qwen3_vl_core::failure::Failure;

/// In matrices, norms and biases, in the first and the last value, for each format at load.
#[test]
fn weights_that_are_no_numbers_are_named() {
    let names = [
        EMBED,
        "model.language_model.layers.1.mlp.down_proj.weight",
        "model.language_model.layers.3.input_layernorm.weight",
        "model.visual.blocks.0.attn.qkv.bias",
        "model.visual.pos_embed.weight",
        "model.visual.patch_embed.proj.weight",
    ];
    for (index, name) in names.into_iter().enumerate() {
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][index % 3];
        let model = changed(|all| {
            let (_, _, bytes) = all.get_mut(name).unwrap();
            let at = if index % 2 == 0 { 0 } else { bytes.len() - 2 };
            bytes[at..at + 2].copy_from_slice(&bf16::from_f32(bad).to_le_bytes());
        });
        for quantization in [QuantizeAtLoad::None, QuantizeAtLoad::Q8_0] {
            let error = load_with(model.path(), DtypeChoice::Auto, quantization).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains(name) && error.contains("no finite numbers"),
                "{error}"
            );
        }
    }
}

#[test]
fn doubles_are_read_as_singles() {
    let original = tensors(demo::demo().path());
    let double = |value: f64| {
        changed(|all| {
            let (dtype, _, bytes) = all.get_mut(EMBED).unwrap();
            let wide = bytes.as_chunks().0.iter();
            let mut wide: Vec<f64> = wide.map(|b| bf16::from_le_bytes(*b).to_f64()).collect();
            if value != 0.0 {
                *wide.last_mut().unwrap() = value;
            }
            (*dtype, *bytes) = (
                Dtype::F64,
                wide.iter().flat_map(|v| v.to_le_bytes()).collect(),
            );
        })
    };
    let embed = values(&original[EMBED]);
    let read = head_and_embeddings(&model(double(0.0).path()).unwrap());
    assert_eq!(read, (embed.clone(), embed));
    for quantization in [QuantizeAtLoad::None, QuantizeAtLoad::Q8_0] {
        load_with(double(0.0).path(), DtypeChoice::Auto, quantization).unwrap();
        // f32 cannot represent it.
        let large = load_with(double(1e300).path(), DtypeChoice::Auto, quantization);
        let error = large.unwrap_err().to_string();
        assert!(
            error.contains(EMBED) && error.contains("no finite"),
            "{error}"
        );
    }
    let whole = changed(|all| {
        let (dtype, shape, bytes) = all.get_mut(EMBED).unwrap();
        (*dtype, *bytes) = (Dtype::I8, vec![0; shape.iter().product()]);
    });
    demo::refused(
        whole.path(),
        &[EMBED, "has type I8", "F64, F32, BF16 and F16"],
    );
}

/// Each type has its exponent at other bits.
#[test]
fn no_numbers_are_found_in_every_type() {
    let bits = |dtype, bad: f32| match dtype {
        Dtype::F64 => f64::from(bad).to_le_bytes().to_vec(),
        Dtype::F32 => bad.to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(bad).to_le_bytes().to_vec(),
        _ => bf16::from_f32(bad).to_le_bytes().to_vec(),
    };
    let name = "model.language_model.norm.weight";
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
        let with = |value: f32| {
            changed(|all| {
                let (_, shape, bytes) = all.remove(name).unwrap();
                let values = bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| bf16::from_le_bytes(*b).to_f32());
                let mut values: Vec<f32> = values.collect();
                *values.last_mut().unwrap() = value;
                let bytes = values
                    .into_iter()
                    .flat_map(|value| bits(dtype, value))
                    .collect();
                all.insert(name.into(), (dtype, shape, bytes));
            })
        };
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            demo::refused(with(bad).path(), &[name, "no finite numbers"]);
        }
        // The largest f16, and a value below the smallest.
        for good in [65504.0, -65504.0, 1e-7, 0.0, -0.0] {
            demo::load(with(good).path()).unwrap();
        }
    }
}

#[test]
fn weights_too_large_for_f16_are_named() {
    let name = "model.language_model.layers.0.mlp.up_proj.weight";
    let large = changed(|all| {
        let (_, _, bytes) = all.get_mut(name).unwrap();
        bytes[..2].copy_from_slice(&bf16::from_f32(70_000.0).to_le_bytes());
    });
    assert!(load_with(large.path(), DtypeChoice::Auto, QuantizeAtLoad::None).is_ok());
    let error = load_with(large.path(), DtypeChoice::F16, QuantizeAtLoad::None).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains(name) && error.contains("too large for f16"),
        "{error}"
    );
}

/// Weights may all be finite, while logits computed with them are not.
#[test]
fn a_model_that_overflows_is_an_error() {
    let model = changed(|all| {
        let (_, _, bytes) = all.get_mut("model.language_model.norm.weight").unwrap();
        let large = bf16::MAX.to_le_bytes();
        bytes.as_chunks_mut().0.iter_mut().for_each(|b| *b = large);
    });
    let backend = demo::load(model.path()).unwrap();
    for temperature in [0.0, 0.7] {
        let (_, rx) = ask(&*backend, pairs(1, SMALL, 0), question(temperature, 8));
        assert_fails(&rx, Failure::Invalid, "no numbers (NaN)");
    }
}
