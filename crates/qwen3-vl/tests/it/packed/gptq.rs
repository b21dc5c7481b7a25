//! GPTQ: AutoGPTQ's and GPTQModel's packing.

use proptest::prelude::*;

use super::*;

/// `zero_offset` is what the format takes away from zero points; `index` writes `g_idx`.
pub fn packed(m: &Integers, zero_offset: u32, index: bool) -> Tensors {
    let per_word = m.per_word();
    let (down, across) = (m.k / per_word, m.n / per_word);
    // qweight [k / 8, n]: a word is of eight inputs of one output.
    let weight = |index: usize| {
        let (first, row) = (index / m.n * per_word, index % m.n);
        word(
            m.bits,
            (first..first + per_word).map(|column| m.q(row, column)),
        )
    };
    // qzeros [groups, n / 8]: a word is of eight outputs.
    let zero = |index: usize| {
        let (group, first) = (index / across, index % across * per_word);
        let stored = |row| m.zero(row, group) - zero_offset;
        word(m.bits, (first..first + per_word).map(stored))
    };
    let scale = |index: usize| m.scale(index % m.n, index / m.n);
    let mut all = named([
        ("qweight", i32s(&[down, m.n], (0..down * m.n).map(weight))),
        (
            "qzeros",
            i32s(&[m.groups, across], (0..m.groups * across).map(zero)),
        ),
        (
            "scales",
            f16s(&[m.groups, m.n], (0..m.groups * m.n).map(scale)),
        ),
    ]);
    if index {
        let groups = m.group.iter().map(|group| *group as u32);
        all.extend(named([("g_idx", i32s(&[m.k], groups))]));
    }
    all
}

/// What g_idx says.
#[derive(Clone, Copy, Debug)]
enum Index {
    Absent,
    InSequence,
    /// desc_act: groups of one size, of columns from anywhere.
    Permuted,
    /// Groups of any size, some of none.
    Any,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    shape: (usize, usize),
    bits: usize,
    size: Option<usize>,
    zero_offset: u8,
    symmetric: bool,
    index: Index,
}

fn check(case: Case, seed: u64) {
    let Case {
        shape,
        bits,
        size,
        zero_offset,
        symmetric,
        index,
    } = case;
    let least = u32::from(zero_offset);
    let mut matrix = Integers::new(shape, bits, size, least, seed);
    if symmetric {
        matrix = matrix.symmetric();
    }
    let mut random = Random(seed ^ 1);
    match index {
        Index::Absent | Index::InSequence => (),
        Index::Permuted => {
            for column in (1..matrix.k).rev() {
                matrix.group.swap(column, random.below(column + 1));
            }
        }
        Index::Any => {
            let groups = matrix.groups;
            matrix
                .group
                .iter_mut()
                .for_each(|group| *group = random.below(groups));
        }
    }
    let quantization = Quantization::Gptq {
        zero_offset,
        groups: vec![matrix.groups(size)],
    };
    let tensors = packed(&matrix, least, !matches!(index, Index::Absent));
    let layer = load(&tensors, &quantization, shape).unwrap();
    assert_eq!(layer.quantised(), Some(format!("gptq {bits}-bit")));
    assert_is(&layer, &matrix.weights(), shape);
}

#[test]
fn weights_are_q_minus_z_times_s() {
    for index in [
        Index::Absent,
        Index::InSequence,
        Index::Permuted,
        Index::Any,
    ] {
        for (bits, zero_offset, symmetric) in [
            (4, 1, true),
            (4, 1, false),
            (4, 0, false),
            (8, 1, false),
            (8, 0, true),
        ] {
            let case = Case {
                shape: (72, 1088),
                bits,
                size: Some(128),
                zero_offset,
                symmetric,
                index,
            };
            check(case, 5);
        }
    }
}

/// The format without v2 stores one less. The largest stored one is read as that plus one.
#[test]
fn zero_points_of_the_first_format_reach_beyond_the_integers() {
    for bits in [4, 8] {
        let mut matrix = Integers::new((8, 64), bits, Some(32), 1, 6);
        matrix.zeros[3] = 1 << bits;
        let size = Some(32);
        let groups = vec![matrix.groups(size)];
        let quantization = Quantization::Gptq {
            zero_offset: 1,
            groups,
        };
        let layer = load(&packed(&matrix, 1, false), &quantization, (8, 64)).unwrap();
        assert_is(&layer, &matrix.weights(), (8, 64));
    }
}

/// `dynamic` gives some layers other bits and groups: which ones, their tensors tell.
#[test]
fn layers_may_have_the_bits_and_groups_of_another_rule() {
    let (four, eight) = (Bits::Four, Bits::Eight);
    let rules = [
        (four, Some(128)),
        (eight, Some(64)),
        (four, Some(32)),
        (eight, None),
    ];
    let groups = rules.map(|(bits, size)| Groups { bits, size }).to_vec();
    let quantization = Quantization::Gptq {
        zero_offset: 1,
        groups,
    };
    for (bits, size) in rules {
        let matrix = Integers::new((16, 384), bits.count(), size, 1, 8);
        let layer = load(&packed(&matrix, 1, true), &quantization, (16, 384)).unwrap();
        assert_is(&layer, &matrix.weights(), (16, 384));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_shape_and_version(
        (rows, columns) in (1..5_usize, 1..36_usize),
        bits in prop::sample::select(vec![4_usize, 8]),
        size in prop::sample::select(vec![Some(16), Some(32), Some(64), Some(128), None]),
        zero_offset in 0..2_u8,
        symmetric: bool,
        index in prop::sample::select(
            vec![Index::Absent, Index::InSequence, Index::Permuted, Index::Any]
        ),
        seed: u64,
    ) {
        let shape = (rows * 8, columns * 32 / bits);
        check(Case { shape, bits, size, zero_offset, symmetric, index }, seed);
    }
}
