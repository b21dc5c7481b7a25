//! Stacks by the definition of their layout.

use candle_core::{DType, Device};
use half::bf16;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const LAYER: &str = "model.language_model.layers.0.mlp.experts.";

/// A file of tensors: name, type, shape, bytes.
type Tensors<'a> = [(&'a str, &'a str, &'a [usize], Vec<u8>)];

fn file(tensors: &Tensors<'_>) -> Result<Box<dyn TensorSource>, WeightsError> {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let place = [data.len(), data.len() + bytes.len()];
        data.extend(bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": place});
        header.insert((*name).into(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    split(Safetensors::embedded(file.leak())?)
}

/// Indices of all values of a tensor of this shape.
fn numbers(shape: &[usize]) -> std::ops::Range<usize> {
    0..shape.iter().product()
}

fn bf16s(shape: &[usize]) -> Vec<u8> {
    // Bits of small numbers, all of them finite.
    let bits = numbers(shape).map(|i| (0x3c00 + i % 0x800) as u16);
    bits.flat_map(u16::to_le_bytes).collect()
}

fn bf16_at(i: usize) -> f32 {
    bf16::from_bits((0x3c00 + i % 0x800) as u16).to_f32()
}

fn f32s(shape: &[usize]) -> Vec<u8> {
    numbers(shape)
        .flat_map(|i| (i as f32).to_le_bytes())
        .collect()
}

/// Everything that a loader may ask of a matrix: all of it, and rows as f32 and as bytes.
fn check(
    source: &dyn TensorSource,
    name: &str,
    (rows, columns): (usize, usize),
    wanted: impl Fn(usize, usize) -> f32,
) {
    let shape = [rows, columns];
    let stored = source.find(name, &shape).unwrap();
    assert_eq!((stored.name(), stored.shape()), (name, &shape[..]));
    let all: Vec<f32> = (0..rows)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| wanted(row, column))
        .collect();
    let half = rows / 2 * columns..rows * columns;
    assert_eq!(
        stored.widen(half.clone()).unwrap(),
        all[half.clone()],
        "{name}"
    );
    let tensor = stored.tensor(&Device::Cpu).unwrap();
    let tensor = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    assert_eq!(tensor.to_vec1::<f32>().unwrap(), all, "{name}");
    let size = stored.stored_dtype().size_in_bytes();
    let mut bytes = vec![0; half.len() * size];
    stored.read(half.start * size, &mut bytes).unwrap();
    let values = bytes.chunks(size).map(|value| match value {
        [a, b] => bf16::from_le_bytes([*a, *b]).to_f32(),
        value => f32::from_le_bytes(value.try_into().unwrap()),
    });
    assert!(values.eq(all[half].iter().copied()), "{name}");
}

proptest! {
    /// In both layouts, each expert's matrices are those of its place in the stack.
    #[test]
    fn experts_are_cut_out_of_their_stacks(
        (count, hidden, inner) in (1usize..5, 1usize..40, 1usize..40),
        linear: bool,
        wide: bool,
    ) {
        prop_assume!(hidden != 2 * inner && hidden != inner);
        let (gate_up, down) = match linear {
            true => ([count, 2 * inner, hidden], [count, hidden, inner]),
            false => ([count, hidden, 2 * inner], [count, inner, hidden]),
        };
        let dtype = if wide { "F32" } else { "BF16" };
        let bytes = |shape: &[usize]| if wide { f32s(shape) } else { bf16s(shape) };
        let at = |i: usize| if wide { i as f32 } else { bf16_at(i) };
        let names = [format!("{LAYER}gate_up_proj"), format!("{LAYER}down_proj")];
        let source = file(&[
            (&names[0], dtype, &gate_up, bytes(&gate_up)),
            (&names[1], dtype, &down, bytes(&down)),
        ]);
        let source = &*source.unwrap();
        prop_assert_eq!(source.names().len(), 3 * count);
        let at_place = |[_, rows, columns]: [usize; 3], [expert, row, column]: [usize; 3]| {
            at((expert * rows + row) * columns + column)
        };
        for expert in 0..count {
            for (part, name) in ["gate_proj", "up_proj"].into_iter().enumerate() {
                let name = format!("{LAYER}{expert}.{name}.weight");
                check(source, &name, (inner, hidden), |row, column| {
                    let row = part * inner + row;
                    let place = if linear { [expert, row, column] } else { [expert, column, row] };
                    at_place(gate_up, place)
                });
            }
            let name = format!("{LAYER}{expert}.down_proj.weight");
            check(source, &name, (hidden, inner), |row, column| {
                let place = if linear { [expert, row, column] } else { [expert, column, row] };
                at_place(down, place)
            });
        }
    }
}

/// One scale for each block of 128x128 weights, transposed with them: the halves are cut at
/// `inner / 128`.
#[test]
fn scales_of_blocks_lie_as_their_weights() {
    let (count, hidden, inner) = (3, 5, 2);
    let (gate_up, down) = ([count, hidden, 2 * inner], [count, inner, hidden]);
    let names = [
        format!("{LAYER}gate_up_proj_scale_inv"),
        format!("{LAYER}down_proj_scale_inv"),
    ];
    let source = file(&[
        (&names[0], "F32", &gate_up, f32s(&gate_up)),
        (&names[1], "F32", &down, f32s(&down)),
    ]);
    let source = &*source.unwrap();
    for expert in 0..count {
        for (part, name) in ["gate_proj", "up_proj"].into_iter().enumerate() {
            let name = format!("{LAYER}{expert}.{name}.weight_scale_inv");
            check(source, &name, (inner, hidden), |row, column| {
                ((expert * hidden + column) * 2 * inner + part * inner + row) as f32
            });
        }
        let name = format!("{LAYER}{expert}.down_proj.weight_scale_inv");
        check(source, &name, (hidden, inner), |row, column| {
            ((expert * inner + column) * hidden + row) as f32
        });
    }
}

#[test]
fn other_tensors_stay_as_they_are() {
    let router = "language_model.layers.0.mlp.gate.weight";
    let own = format!("{LAYER}3.down_proj.weight");
    let source = file(&[
        (router, "F32", &[2, 4], f32s(&[2, 4])),
        (&own, "F32", &[4, 3], f32s(&[4, 3])),
    ]);
    let source = source.unwrap();
    let mut names = source.names();
    names.sort();
    assert_eq!(names, [router, &own]);
    check(&*source, &own, (4, 3), |row, column| {
        (row * 3 + column) as f32
    });
    // Names of files that lack the first part, with an expert.
    let fused = "language_model.layers.0.mlp.experts.down_proj";
    let source = file(&[
        (router, "F32", &[2, 4], f32s(&[2, 4])),
        (fused, "F32", &[1, 3, 4], f32s(&[1, 3, 4])),
    ]);
    let mut names = source.unwrap().names();
    names.sort();
    let down = "language_model.layers.0.mlp.experts.0.down_proj.weight";
    assert_eq!(names, [down, router]);
}

#[test]
fn shapes_that_are_no_stacks_are_named() {
    let name = format!("{LAYER}gate_up_proj");
    let opened = |shape: &[usize]| file(&[(&name, "F32", shape, f32s(shape))]).map(drop);
    for shape in [
        &[][..],
        &[8],
        &[8, 4],
        &[2, 3, 4, 5],
        &[0, 3, 4],
        &[2, 0, 4],
        &[2, 3, 0],
        &[4097, 1, 2],
    ] {
        let error = opened(shape).unwrap_err().to_string();
        assert!(
            error.contains(&name) && error.contains("no stack"),
            "{error}"
        );
    }
    opened(&[4096, 1, 2]).unwrap();
}

/// A file of a few megabytes cannot make a list of names that takes gigabytes.
#[test]
fn the_number_of_experts_is_bounded() {
    let names: Vec<String> = (0..200)
        .map(|layer| format!("model.language_model.layers.{layer}.mlp.experts.gate_up_proj"))
        .collect();
    let bytes = f32s(&[4096, 1, 2]);
    let tensors: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), "F32", &[4096, 1, 2][..], bytes.clone()))
        .collect();
    let error = file(&tensors).unwrap_err().to_string();
    assert!(error.contains("one stack of experts too many"), "{error}");
}

#[test]
fn shapes_of_another_model_are_named() {
    let name = format!("{LAYER}gate_up_proj");
    let shape = [2, 6, 10];
    let source = file(&[(&name, "F32", &shape, f32s(&shape))]).unwrap();
    let up = format!("{LAYER}1.up_proj.weight");
    for wrong in [[5, 7], [4, 6], [6, 5], [3, 8]] {
        let error = source.find(&up, &wrong).map(drop).unwrap_err().to_string();
        let wanted = format!("{:?}", [2, wrong[1], 2 * wrong[0]]);
        assert!(error.contains(&name) && error.contains(&wanted), "{error}");
    }
    assert!(source.find(&up, &[5, 6]).is_ok());
    assert!(source.find(&up, &[5, 6, 1]).is_err());
    assert!(source.find(&up, &[usize::MAX, 2]).is_err());
    let third = format!("{LAYER}2.up_proj.weight");
    let error = source.find(&third, &[5, 6]).map(drop);
    assert!(matches!(error, Err(WeightsError::Missing(name)) if name == third));
}

/// With as many inputs as outputs the shape does not tell the layout.
#[test]
fn a_square_stack_is_refused() {
    for (part, matrix, shape) in [
        ("gate_up_proj", "gate_proj", [3, 6]),
        ("down_proj", "down_proj", [6, 6]),
    ] {
        let name = format!("{LAYER}{part}");
        let source = file(&[(&name, "F32", &[2, 6, 6], f32s(&[2, 6, 6]))]).unwrap();
        let matrix = format!("{LAYER}0.{matrix}.weight");
        let error = source
            .find(&matrix, &shape)
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&name) && error.contains("which axis"),
            "{error}"
        );
    }
}

#[test]
fn an_expert_is_in_a_file_once() {
    let (stack, own) = (
        format!("{LAYER}down_proj"),
        format!("{LAYER}1.down_proj.weight"),
    );
    let error = file(&[
        (&stack, "F32", &[2, 3, 4], f32s(&[2, 3, 4])),
        (&own, "F32", &[4, 3], f32s(&[4, 3])),
    ]);
    let error = error.map(drop).unwrap_err().to_string();
    assert!(error.contains(&stack) && error.contains(&own), "{error}");
}

#[test]
fn what_is_no_number_is_found_in_both_layouts() {
    let name = format!("{LAYER}down_proj");
    for shape in [[2, 3, 4], [2, 4, 3]] {
        let mut bytes = f32s(&shape);
        let last = bytes.len() - 4;
        bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        let source = file(&[(&name, "F32", &shape, bytes)]).unwrap();
        for (expert, finite) in [(0, true), (1, false)] {
            let matrix = format!("{LAYER}{expert}.down_proj.weight");
            let stored = source.find(&matrix, &[4, 3]).unwrap();
            let error = stored.tensor(&Device::Cpu);
            let named = matches!(&error, Err(WeightsError::NotFinite(name)) if *name == matrix);
            assert!(error.is_ok() == finite && (finite || named));
        }
    }
}
