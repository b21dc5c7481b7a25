//! compressed-tensors, format pack-quantized: `compressors/pack_quantized/helpers.py`.

use half::bf16;
use proptest::prelude::*;

use super::*;

/// What is there beside the integers.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// Zero points.
    pub zeros: bool,
    /// Scales in BF16 instead of F16.
    pub bf16: bool,
}

pub fn packed(m: &Integers, parts: Parts) -> Tensors {
    let per_word = m.per_word();
    let (across, down) = (m.k.div_ceil(per_word), m.n.div_ceil(per_word));
    // weight_packed [n, k / 8]: the last word of a row may be filled with anything.
    let weight = |index: usize| {
        let (row, first) = (index / across, index % across * per_word);
        let column = |column| if column < m.k { m.q(row, column) } else { 5 };
        word(m.bits, (first..first + per_word).map(column))
    };
    // weight_zero_point [n / 8, groups]: a word is of eight outputs of one group.
    let zero = |index: usize| {
        let (first, group) = (index / m.groups * per_word, index % m.groups);
        let row = |row| if row < m.n { m.zero(row, group) } else { 0 };
        word(m.bits, (first..first + per_word).map(row))
    };
    let scales = match parts.bf16 {
        false => f16s(&[m.n, m.groups], m.scales.iter().copied()),
        true => {
            let bytes = m.scales.iter().map(|scale| bf16::from_f32(scale.to_f32()));
            let bytes = bytes.flat_map(bf16::to_le_bytes).collect();
            (Dtype::BF16, vec![m.n, m.groups], bytes)
        }
    };
    let shape = [m.n as i64, m.k as i64]
        .into_iter()
        .flat_map(i64::to_le_bytes);
    let mut all = named([
        (
            "weight_packed",
            i32s(&[m.n, across], (0..m.n * across).map(weight)),
        ),
        ("weight_scale", scales),
        ("weight_shape", (Dtype::I64, vec![2], shape.collect())),
    ]);
    if parts.zeros {
        let words = (0..down * m.groups).map(zero);
        all.extend(named([(
            "weight_zero_point",
            i32s(&[down, m.groups], words),
        )]));
    }
    all
}

fn quantization(m: &Integers, size: Option<usize>) -> Quantization {
    let groups = vec![m.groups(size)];
    Quantization::CompressedTensors { groups }
}

fn matrix(
    shape: (usize, usize),
    bits: usize,
    size: Option<usize>,
    parts: Parts,
    seed: u64,
) -> Integers {
    let mut matrix = Integers::new(shape, bits, size, 0, seed);
    if !parts.zeros {
        matrix = matrix.symmetric();
    }
    if parts.bf16 {
        // Numbers that both types have.
        let short = |scale: &mut f16| *scale = f16::from_bits(scale.to_bits() & 0xfff8);
        matrix.scales.iter_mut().for_each(short);
    }
    matrix
}

fn check(shape: (usize, usize), bits: usize, size: Option<usize>, parts: Parts, seed: u64) {
    let matrix = matrix(shape, bits, size, parts, seed);
    let layer = load(&packed(&matrix, parts), &quantization(&matrix, size), shape).unwrap();
    assert_eq!(
        layer.quantised(),
        Some(format!("compressed-tensors {bits}-bit"))
    );
    assert_is(&layer, &matrix.weights(), shape);
}

const ALL_PARTS: [Parts; 4] = [
    Parts {
        zeros: false,
        bf16: true,
    },
    Parts {
        zeros: true,
        bf16: true,
    },
    Parts {
        zeros: false,
        bf16: false,
    },
    Parts {
        zeros: true,
        bf16: false,
    },
];

#[test]
fn weights_are_q_minus_z_times_s() {
    for parts in ALL_PARTS {
        for bits in [4, 8] {
            check((70, 1088), bits, Some(128), parts, 1);
            check((21, 1300), bits, None, parts, 2);
        }
    }
}

/// Group actorder of older versions: each column's group, or -1 where it was never filled.
#[test]
fn an_index_of_groups_is_honoured() {
    let (parts, size, shape) = (ALL_PARTS[1], Some(32), (24, 256));
    let mut matrix = matrix(shape, 4, size, parts, 3);
    let with_index = |matrix: &Integers, index: &mut dyn Iterator<Item = u32>| {
        let mut all = packed(matrix, parts);
        all.extend(named([("weight_g_idx", i32s(&[256], index))]));
        load(&all, &quantization(matrix, size), shape).unwrap()
    };
    let layer = with_index(&matrix, &mut std::iter::repeat_n(u32::MAX, 256));
    assert_is(&layer, &matrix.weights(), shape);
    let mut random = Random(4);
    for column in (1..matrix.k).rev() {
        matrix.group.swap(column, random.below(column + 1));
    }
    let index: Vec<u32> = matrix.group.iter().map(|group| *group as u32).collect();
    let layer = with_index(&matrix, &mut index.into_iter());
    assert_is(&layer, &matrix.weights(), shape);
}

/// A layer takes hardly more memory than in its file.
#[test]
fn memory_is_that_of_the_file() {
    let shape = (64, 1024);
    for (bits, size, parts) in [
        (4, Some(128), ALL_PARTS[0]),
        (4, Some(32), ALL_PARTS[1]),
        (8, Some(128), ALL_PARTS[1]),
        (8, None, ALL_PARTS[0]),
    ] {
        let matrix = matrix(shape, bits, size, parts, 5);
        let tensors = packed(&matrix, parts);
        let file: usize = tensors.values().map(|(_, _, bytes)| bytes.len()).sum();
        let layer = load(&tensors, &quantization(&matrix, size), shape).unwrap();
        let bytes = layer.bytes();
        assert!(
            bytes * 100 <= file * 105,
            "{bits} bits, {size:?}: {bytes} of {file}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_shape(
        shape in (1..40_usize, 1..300_usize),
        bits in prop::sample::select(vec![4_usize, 8]),
        size in prop::sample::select(vec![Some(32), Some(64), Some(128), Some(24), None]),
        parts in prop::sample::select(ALL_PARTS.to_vec()),
        seed: u64,
    ) {
        check(shape, bits, size, parts, seed);
    }
}
