use half::bf16;
use proptest::collection::vec;
use proptest::prelude::*;

use super::lanes::{Emulated, LANES, Lanes};
use super::pack::round;
use super::*;
use crate::cpu::widen::WidenRows;

/// Half a step of bf16, which has 8 bits, and of f32, relative to a value.
const HALF_BF16: f64 = 1.0 / 512.0;
const HALF_F32: f64 = 1.0 / (1 << 24) as f64;

/// Rows, columns, values.
type Matrix = (usize, usize, Vec<f32>);

fn matrix(rows: usize, columns: usize, seed: usize) -> Matrix {
    let value = |i: usize| {
        let hash = (i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // From -1 to 1, with all the bits of an f32.
        (hash >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (rows, columns, (0..rows * columns).map(value).collect())
}

fn stored(isa: Bf16Isa, (rows, columns, values): &Matrix) -> Bf16Matrix {
    let some = |range: Range<usize>| {
        let values = &values[range.start * columns..range.end * columns];
        Ok::<_, ()>(values.to_vec())
    };
    Bf16Matrix::round(isa, (*rows, *columns), some).unwrap()
}

fn product(isa: Bf16Isa, x: &Matrix, w: &Matrix) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.0 * w.0];
    stored(isa, w).matmul_t_into(&x.2, x.0, &mut out);
    out
}

fn as_bf16(value: f32) -> f64 {
    bf16::from_f32(value).to_f64()
}

/// Every result against f64: of the rounded factors, where f32 sums are all the error, and of the
/// factors themselves.
fn check(out: &[f32], (m, k, x): &Matrix, (n, _, w): &Matrix) {
    for i in 0..*m {
        for j in 0..*n {
            let (x, w) = (&x[i * k..][..*k], &w[j * k..][..*k]);
            let terms = || x.iter().zip(w);
            let exact: f64 = terms().map(|(x, w)| f64::from(x * w)).sum();
            let rounded: f64 = terms().map(|(x, w)| as_bf16(*x) * as_bf16(*w)).sum();
            let size: f64 = terms().map(|(x, w)| f64::from((x * w).abs())).sum();
            let got = f64::from(out[i * n + j]);
            let sums = size * (*k as f64 + 1.0) * HALF_F32 * (1.0 + 4.0 * HALF_BF16);
            assert!(
                (got - rounded).abs() <= sums,
                "[{m}, {k}] x [{n}, {k}] at {i}, {j}: {got}, not {rounded}"
            );
            let factors = size * 2.01 * HALF_BF16;
            assert!((got - exact).abs() <= sums + factors, "{got}, not {exact}");
        }
    }
}

/// m, n and k: one row and many; parts of groups, of panels and of pairs; several depths.
const SIZES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 64, 2),
    (1, 130, 2 * 2 * DEPTH + 6),
    (2, 65, 3),
    (5, 63, 2 * DEPTH),
    (6, 64, 64),
    (7, 3, 2 * DEPTH + 1),
    (13, 200, 33),
    (200, 70, 40),
];

#[test]
fn equals_the_definition() {
    for (m, n, k) in SIZES {
        let (x, w) = (matrix(m, k, 1), matrix(n, k, 99));
        check(&product(Bf16Isa::Emulated, &x, &w), &x, &w);
    }
}

/// A pair after the other, the odd column first: no order of tiles, panels or depths shows.
#[test]
fn each_result_is_one_chain() {
    let (x, w) = (matrix(9, 2 * DEPTH + 34, 5), matrix(70, 2 * DEPTH + 34, 6));
    let out = product(Bf16Isa::Emulated, &x, &w);
    let k = x.1;
    for (i, j) in [(0, 0), (3, 69), (8, 64), (5, 17)] {
        let (x, w) = (&x.2[i * k..][..k], &w.2[j * k..][..k]);
        let rounded = |value: f32| bf16::from_f32(value).to_f32();
        let mut sum = 0f32;
        for (x, w) in x.chunks(2).zip(w.chunks(2)) {
            sum = rounded(x[1]).mul_add(rounded(w[1]), sum);
            sum = rounded(x[0]).mul_add(rounded(w[0]), sum);
        }
        assert_eq!(out[i * 70 + j].to_bits(), sum.to_bits(), "{i}, {j}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_row_is_the_same_alone_and_in_any_batch(
        (m, n, k) in (1usize..40, 1usize..140, 1usize..90),
        seed in 0usize..1000,
        rows in vec(any::<prop::sample::Index>(), 1..30),
    ) {
        let (x, w) = (matrix(m, k, seed), matrix(n, k, seed + 7));
        let all = product(Bf16Isa::Emulated, &x, &w);
        let rows: Vec<usize> = rows.iter().map(|row| row.index(m)).collect();
        let some = rows.iter().flat_map(|row| &x.2[row * k..][..k]).copied().collect();
        let some = product(Bf16Isa::Emulated, &(rows.len(), k, some), &w);
        for (row, some) in rows.iter().zip(some.chunks(n)) {
            let bits = |row: &[f32]| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&all[row * n..][..n]), bits(some));
        }
    }

    #[test]
    fn rounding_is_that_of_half(bits in any::<u32>()) {
        let value = f32::from_bits(bits);
        prop_assert_eq!(round(value), u32::from(bf16::from_f32(value).to_bits()));
    }

    /// Also of values whose products and sums are denormal or infinite.
    #[test]
    fn a_step_is_two_fused_ones(sum in any::<f32>(), a in any::<u32>(), b in any::<u32>()) {
        let want = fused(fused(sum, a & !0xffff, b & !0xffff), a << 16, b << 16);
        // SAFETY: plain code, and all lanes are there.
        let got = unsafe {
            let (a, b) = (Emulated::splat(a), Emulated::load_pairs([b; LANES].as_ptr()));
            Emulated::dot_pairs(Emulated::load_sums([sum; LANES].as_ptr()), a, b)
        };
        for got in got {
            prop_assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{} + {:#x} * {:#x}: {}, not {}", sum, a, b, got, want
            );
        }
    }
}

/// A fused multiply-add as the standard library has it, with denormals as zeros.
fn fused(sum: f32, a: u32, b: u32) -> f32 {
    let flushed = |value: f32| match value.is_subnormal() {
        true => 0.0f32.copysign(value),
        false => value,
    };
    let (a, b) = (flushed(f32::from_bits(a)), flushed(f32::from_bits(b)));
    flushed(a.mul_add(b, flushed(sum)))
}

#[test]
fn rows_are_kept_in_bf16() {
    let w = matrix(131, 35, 3);
    let stored = stored(Bf16Isa::Emulated, &w);
    assert_eq!(stored.bytes(), 3 * 64 * 36 * 2);
    assert_eq!(stored.bytes(), Bf16Matrix::size(131, 35));
    for row in [0, 63, 64, 130] {
        let mut out = [f32::NAN; 35];
        stored.widen_row(row, &mut out);
        let want = w.2[row * 35..][..35]
            .iter()
            .map(|v| bf16::from_f32(*v).to_f32());
        assert!(want.eq(out), "row {row}");
    }
}

/// Weights that are widened where they are used.
struct Wide<'a>(&'a Matrix);

impl WidenRows for Wide<'_> {
    fn columns(&self) -> usize {
        self.0.1
    }

    fn widen(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self.0.2[row * self.0.1..][..self.0.1][columns]);
    }
}

#[test]
fn panels_that_are_made_for_a_product_are_those_that_are_kept() {
    for (m, n, k) in SIZES {
        let (x, w) = (matrix(m, k, 11), matrix(n, k, 12));
        let mut out = vec![f32::NAN; m * n];
        let wide = Widened {
            matrix: &Wide(&w),
            rows: n,
        };
        matmul_t(&wide, Bf16Isa::Emulated, &x.2, m, &mut out);
        assert_eq!(out, product(Bf16Isa::Emulated, &x, &w), "{m}x{n}x{k}");
    }
}

#[test]
fn an_error_of_reading_is_given_back() {
    let failed = |range: Range<usize>| match range.start {
        0 => Ok(vec![0.0; 64 * 8]),
        start => Err(start),
    };
    let error = Bf16Matrix::round(Bf16Isa::Emulated, (100, 8), failed).unwrap_err();
    assert_eq!(error, 64);
}

#[test]
fn nothing_gives_zeros() {
    let (x, w) = (matrix(2, 0, 0), matrix(3, 0, 0));
    assert_eq!(product(Bf16Isa::Emulated, &x, &w), [0.0; 6]);
    assert!(product(Bf16Isa::Emulated, &matrix(0, 4, 0), &matrix(3, 4, 0)).is_empty());
}

/// The CPU's instruction, with the tolerances of the definition.
#[test]
fn the_instruction_does_what_its_definition_says() {
    let Some(isa) = Bf16Isa::of_this_cpu() else {
        println!("skipped: this CPU has no AVX512-BF16");
        return;
    };
    for (m, n, k) in SIZES {
        let (x, w) = (matrix(m, k, 21), matrix(n, k, 22));
        check(&product(isa, &x, &w), &x, &w);
    }
}
