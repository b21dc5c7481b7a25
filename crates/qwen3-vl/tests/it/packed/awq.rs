//! AutoAWQ, version gemm: `awq/modules/linear/gemm.py`.

use proptest::prelude::*;

use super::*;

/// Column of a word that its nibbles hold, from the lowest on.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

pub fn packed(m: &Integers) -> Tensors {
    let words = m.n / 8;
    // qweight [k, n / 8]: a word is of eight outputs of one input.
    let weight = |index: usize| {
        let (column, first) = (index / words, index % words * 8);
        word(4, ORDER.map(|place| m.q(first + place, column)))
    };
    let zero = |index: usize| {
        let (group, first) = (index / words, index % words * 8);
        word(4, ORDER.map(|place| m.zero(first + place, group)))
    };
    let scale = |index: usize| m.scale(index % m.n, index / m.n);
    named([
        ("qweight", i32s(&[m.k, words], (0..m.k * words).map(weight))),
        (
            "qzeros",
            i32s(&[m.groups, words], (0..m.groups * words).map(zero)),
        ),
        (
            "scales",
            f16s(&[m.groups, m.n], (0..m.groups * m.n).map(scale)),
        ),
    ])
}

fn check(shape: (usize, usize), size: Option<usize>, seed: u64) {
    let matrix = Integers::new(shape, 4, size, 0, seed);
    let quantization = Quantization::Awq(matrix.groups(size));
    let layer = load(&packed(&matrix), &quantization, shape).unwrap();
    assert_eq!(layer.quantised().as_deref(), Some("awq 4-bit"));
    assert_is(&layer, &matrix.weights(), shape);
}

#[test]
fn weights_are_q_minus_z_times_s() {
    check((72, 1100), Some(128), 1);
    check((200, 512), Some(128), 2);
    check((8, 64), None, 3);
    check((16, 1), Some(128), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_shape(
        words in 1..6_usize,
        k in 1..300_usize,
        size in prop::sample::select(vec![Some(16), Some(32), Some(64), Some(128), Some(5), None]),
        seed: u64,
    ) {
        check((8 * words, k), size, seed);
    }
}
