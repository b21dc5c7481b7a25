//! Quantised layers whose parts do not fit, and parts in several files.

use std::fs;

use candle_core::Device;
use qwen3_vl::weights::QuantizeAtLoad;

use super::*;
use compressed::Parts;
use fp8::Fp8;

const SHAPE: (usize, usize) = (64, 256);
const SIZE: Option<usize> = Some(64);

/// A layer of each format, good as it is.
fn formats() -> [(&'static str, Tensors, Quantization); 4] {
    let matrix = Integers::new(SHAPE, 4, SIZE, 1, 1).symmetric();
    let groups = vec![matrix.groups(SIZE)];
    let awq = Quantization::Awq(groups[0]);
    let gptq = Quantization::Gptq {
        zero_offset: 1,
        groups: groups.clone(),
    };
    let compressed = Quantization::CompressedTensors { groups };
    let parts = Parts {
        zeros: true,
        bf16: false,
    };
    let fp8 = Fp8::new(SHAPE, (32, 64), 2);
    let blocks = vec![(32, 64)];
    [
        ("awq", awq::packed(&matrix), awq),
        ("gptq", gptq::packed(&matrix, 1, true), gptq),
        (
            "compressed-tensors",
            compressed::packed(&matrix, parts),
            compressed,
        ),
        (
            "fp8",
            fp8.tensors("weight_scale_inv", Dtype::F32, &[2, 4]),
            Quantization::Fp8 { blocks },
        ),
    ]
}

fn assert_refused(tensors: &Tensors, quantization: &Quantization, words: &[&str]) {
    let error = load(tensors, quantization, SHAPE)
        .expect_err("it was loaded")
        .to_string();
    for word in words {
        assert!(error.contains(word), "{error} lacks {word:?}");
    }
}

fn full(part: &str) -> String {
    format!("{LAYER}.{part}")
}

/// Parts without which a layer means something else, and is read so.
const OPTIONAL: [&str; 3] = ["g_idx", "weight_zero_point", "weight_shape"];

#[test]
fn parts_that_are_missing_are_named() {
    for (format, good, quantization) in formats() {
        load(&good, &quantization, SHAPE).unwrap();
        for name in good.keys() {
            if OPTIONAL.iter().any(|part| name.ends_with(part)) {
                continue;
            }
            let mut tensors = good.clone();
            tensors.remove(name);
            // Without its integers nothing tells that the layer is quantised.
            let weight = full("weight");
            let missing = match name.rsplit('.').next() {
                Some("qweight" | "weight_packed") => weight.as_str(),
                _ => name,
            };
            let error = load(&tensors, &quantization, SHAPE)
                .expect_err(format)
                .to_string();
            let is_named = error.contains(missing) && error.contains("is missing");
            assert!(is_named, "{format} without {name}: {error}");
        }
    }
}

#[test]
fn shapes_of_all_parts_are_checked() {
    for (_, good, quantization) in formats() {
        for (name, (_, shape, _)) in &good {
            let transposed: Vec<usize> = shape.iter().rev().copied().collect();
            let halved: Vec<usize> = shape.iter().map(|size| size.div_ceil(2)).collect();
            for other in [transposed, halved, vec![shape.iter().product(), 1, 1]] {
                if other == *shape {
                    continue;
                }
                let mut tensors = good.clone();
                let (_, changed, bytes) = tensors.get_mut(name).unwrap();
                let size = bytes.len() / shape.iter().product::<usize>();
                bytes.truncate(size * other.iter().product::<usize>());
                *changed = other.clone();
                let found = format!("{other:?}");
                assert_refused(
                    &tensors,
                    &quantization,
                    &[name, &found, &format!("{shape:?}")],
                );
            }
        }
    }
}

#[test]
fn types_of_all_parts_are_checked() {
    for (_, good, quantization) in formats() {
        for (name, (dtype, shape, bytes)) in &good {
            let size = bytes.len() / shape.iter().product::<usize>();
            let others = match size {
                1 => vec![
                    (Dtype::U8, "U8"),
                    (Dtype::F8_E5M2, "F8_E5M2"),
                    (Dtype::I8, "I8"),
                ],
                2 => vec![(Dtype::I16, "I16"), (Dtype::U16, "U16")],
                4 => vec![(Dtype::U32, "U32")],
                _ => vec![(Dtype::F64, "F64")],
            };
            for (other, shown) in others {
                assert_ne!(other, *dtype);
                let mut tensors = good.clone();
                tensors.get_mut(name).unwrap().0 = other;
                // A weight that may be read, in bytes: then it is the layer that is wrong.
                let named = if shown == "U8" { LAYER } else { name };
                assert_refused(&tensors, &quantization, &[named, shown]);
            }
        }
        // Types that are read, in places that are not theirs.
        for (name, (dtype, ..)) in &good {
            let other = match dtype {
                Dtype::I32 => Dtype::F32,
                Dtype::F32 => Dtype::I32,
                _ => continue,
            };
            let mut tensors = good.clone();
            tensors.get_mut(name).unwrap().0 = other;
            assert_refused(
                &tensors,
                &quantization,
                &[name, &format!("has type {other:?}")],
            );
        }
    }
}

#[test]
fn an_index_names_groups_that_are_there() {
    let [_, (_, good, quantization), (_, compressed, other), _] = formats();
    for (part, good, quantization) in [
        ("g_idx", good, quantization),
        ("weight_g_idx", compressed, other),
    ] {
        for bad in [4, i32::MAX, i32::MIN, -2] {
            let mut tensors = good.clone();
            let index = (0..256).map(|column| if column == 255 { bad as u32 } else { 0 });
            tensors.insert(full(part), i32s(&[256], index));
            let words = [part, &format!("group {bad}"), "there are 4"];
            assert_refused(&tensors, &quantization, &words);
        }
    }
}

#[test]
fn a_shape_in_a_tensor_is_that_of_the_layer() {
    let [_, _, (_, good, quantization), _] = formats();
    for bad in [[64, 255], [256, 64], [-64, 256], [64, i64::MAX]] {
        let mut tensors = good.clone();
        let bytes = bad.into_iter().flat_map(i64::to_le_bytes).collect();
        tensors.insert(full("weight_shape"), (Dtype::I64, vec![2], bytes));
        assert_refused(&tensors, &quantization, &["weight_shape", "(64, 256)"]);
    }
}

#[test]
fn numbers_that_are_none_are_named() {
    for (_, good, quantization) in formats() {
        for (name, (dtype, ..)) in &good {
            let bad: Vec<Vec<u8>> = match dtype {
                Dtype::F8_E4M3 => vec![vec![0x7f], vec![0xff]],
                Dtype::F16 => [f16::NAN, f16::INFINITY]
                    .map(|v| v.to_le_bytes().to_vec())
                    .into(),
                // The last one is finite, and weights of it are not.
                Dtype::F32 => [f32::NAN, f32::NEG_INFINITY, 1e37]
                    .map(|v| v.to_le_bytes().to_vec())
                    .into(),
                _ => continue,
            };
            for bad in bad {
                let mut tensors = good.clone();
                let (_, _, bytes) = tensors.get_mut(name).unwrap();
                let at = bytes.len() - bad.len();
                bytes[at..].copy_from_slice(&bad);
                assert_refused(&tensors, &quantization, &[name, "no finite numbers"]);
            }
        }
    }
}

/// Sizes that fill no words, in formats that have whole ones.
#[test]
fn layers_of_a_part_of_a_word_are_refused() {
    for (shape, format) in [((12, 64), "awq"), ((12, 64), "gptq"), ((16, 60), "gptq")] {
        let (size, bits) = (Some(64), Bits::Four);
        let groups = Groups { bits, size };
        let (quantization, words) = match format {
            "awq" => (Quantization::Awq(groups), [64, 2]),
            _ => {
                let groups = vec![groups];
                (
                    Quantization::Gptq {
                        zero_offset: 1,
                        groups,
                    },
                    [8, shape.0],
                )
            }
        };
        let tensors = named([("qweight", i32s(&words, vec![0; words[0] * words[1]]))]);
        let error = load(&tensors, &quantization, shape)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no multiples of 8") && error.contains(format),
            "{error}"
        );
    }
}

/// config.json and the tensors speak of different formats.
#[test]
fn another_format_than_that_of_the_configuration() {
    let all = formats();
    for (index, (_, tensors, _)) in all.iter().enumerate() {
        for (other, (.., quantization)) in all.iter().enumerate() {
            // AWQ and GPTQ have tensors of the same names, and of other shapes.
            if index == other {
                continue;
            }
            assert_refused(tensors, quantization, &[LAYER]);
        }
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("model.safetensors"), tensors);
        let weights = Weights::open(folder.path(), Target::cpu()).unwrap();
        let error = Linear::load(&weights, LAYER, SHAPE)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(LAYER) && error.contains("nothing of it"),
            "{error}"
        );
    }
}

#[test]
fn quantised_layers_are_not_rounded_again() {
    for (_, tensors, quantization) in formats() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("model.safetensors"), &tensors);
        let target = Target {
            quantize_at_load: QuantizeAtLoad::Q8_0,
            ..Target::cpu()
        };
        let mut weights = Weights::open(folder.path(), target).unwrap();
        weights.set_quantization(Some(quantization));
        let error = Linear::load_rounded(&weights, LAYER, SHAPE)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(LAYER) && error.contains("quantised already"),
            "{error}"
        );
    }
}

/// The index of a checkpoint may put the parts of a layer into several files.
#[test]
fn parts_may_lie_in_different_files() {
    let rows = Tensor::randn(0f32, 1.0, (3, SHAPE.1), &Device::Cpu).unwrap();
    for (_, tensors, quantization) in formats() {
        let whole = load(&tensors, &quantization, SHAPE).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut map = serde_json::Map::new();
        for (index, (name, stored)) in tensors.iter().enumerate() {
            let file = format!("model-{index}.safetensors");
            let one = Tensors::from([(name.clone(), stored.clone())]);
            write(&folder.path().join(&file), &one);
            map.insert(name.clone(), file.into());
        }
        let index = serde_json::json!({ "weight_map": map });
        let path = folder.path().join("model.safetensors.index.json");
        fs::write(path, index.to_string()).unwrap();
        let mut weights = Weights::open(folder.path(), Target::cpu()).unwrap();
        weights.set_quantization(Some(quantization));
        let parts = Linear::load(&weights, LAYER, SHAPE).unwrap();
        let of = |layer: &Linear| layer.forward(&rows).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(of(&parts), of(&whole));
    }
}
