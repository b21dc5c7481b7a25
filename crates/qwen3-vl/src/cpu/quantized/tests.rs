use candle_core::quantized::QTensor;
use candle_core::{Device, Tensor};

use super::*;

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (((i + seed) * 7919 % 4093) as f32 / 2046.5 - 1.0) * (1.0 + (i % 7) as f32))
        .collect()
}

/// A matrix, and its values as candle quantizes and widens them.
fn matrix(format: Format, (n, k): (usize, usize)) -> (QuantizedMatrix, Vec<f32>) {
    let w = values(n * k, 1);
    let tensor = Tensor::from_slice(&w, (n, k), &Device::Cpu).unwrap();
    let tensor = QTensor::quantize(&tensor, format.dtype()).unwrap();
    let wide = tensor.dequantize(&Device::Cpu).unwrap();
    let matrix = QuantizedMatrix::quantize(format, (n, k), |rows, out| {
        out.copy_from_slice(&w[rows.start * k..rows.end * k]);
    });
    let (matrix, size) = (matrix.unwrap(), tensor.storage_size_in_bytes());
    // Where integers are taken apart, scales of 6 bits become bytes, and rows whole panels.
    assert!((size..size * n.next_multiple_of(16) / n * 148 / 144 + 1).contains(&matrix.bytes()));
    (matrix, wide.flatten_all().unwrap().to_vec1().unwrap())
}

/// `x wᵀ` in f64, and for each output the largest error of rounding x to 8 bits.
fn product(x: &[f32], w: &[f32], k: usize) -> Vec<(f64, f64)> {
    let rows = x.chunks_exact(k);
    rows.flat_map(|x| {
        w.chunks_exact(k).map(|w| {
            let pairs = || x.iter().zip(w).map(|(x, w)| (f64::from(*x), f64::from(*w)));
            let steps = x.chunks_exact(32).zip(w.chunks_exact(32)).map(|(x, w)| {
                let step = x.iter().fold(0f32, |most, x| most.max(x.abs())) / 127.0;
                f64::from(step / 2.0 * w.iter().map(|w| w.abs()).sum::<f32>())
            });
            (pairs().map(|(x, w)| x * w).sum(), steps.sum())
        })
    })
    .collect()
}

fn check(format: Format, m: usize, bound: f64, run: impl Fn(&QuantizedMatrix, &[f32]) -> Vec<f32>) {
    // For small blocks, also numbers of blocks that are no multiple of a kernel's step.
    for k in [512, 32, 96, 160, 224] {
        if k % format.block() == 0 {
            check_width(format, (m, k), bound, &run);
        }
    }
}

fn check_width(
    format: Format,
    (m, k): (usize, usize),
    bound: f64,
    run: impl Fn(&QuantizedMatrix, &[f32]) -> Vec<f32>,
) {
    let n = 70;
    let (matrix, wide) = matrix(format, (n, k));
    let x = values(m * k, 5);
    let got = run(&matrix, &x);
    assert_eq!(got.len(), m * n);
    for (got, (want, error)) in got.iter().zip(product(&x, &wide, k)) {
        let difference = (f64::from(*got) - want).abs();
        assert!(
            difference <= error * bound + 1e-2,
            "{format:?} of {m} rows: {got}, not {want} within {error} * {bound}"
        );
    }
}

const BOTH: [Format; 2] = [Format::Q8_0, Format::Q4K];

/// The identity shows every weight.
#[test]
fn weights_are_those_of_candle() {
    for format in BOTH {
        for m in [1, 4, 49] {
            let (n, k) = (70, 512);
            let (matrix, wide) = matrix(format, (n, k));
            for first in (0..k).step_by(m) {
                let mut x = vec![0.0; m * k];
                (0..m.min(k - first)).for_each(|i| x[i * k + first + i] = 1.0);
                let got = matrix.matmul_t(&x, m);
                for i in 0..m.min(k - first) {
                    for row in 0..n {
                        let (got, want) = (got[i * n + row], wide[row * k + first + i]);
                        let close = (got - want).abs() <= 1e-5 * want.abs().max(1.0);
                        assert!(close, "{format:?} at {row}, {}: {got} {want}", first + i);
                    }
                }
            }
        }
    }
}

#[test]
fn rows_are_exact_but_for_their_own_rounding() {
    for format in BOTH {
        for m in [1, 3, 4, 6, 48, 49, 100] {
            check(format, m, 1.0, |w, x| w.matmul_t(x, m));
        }
    }
}

/// A row gives the same bits alone and at any place among others, also with odd numbers of rows of
/// weights.
#[test]
fn a_row_does_not_depend_on_other_rows() {
    for format in BOTH {
        for (n, k) in [(70, 512), (51, 256), (1, 1024), (25, 768)] {
            let (matrix, _) = matrix(format, (n, k));
            let many = 131;
            let x = values(many * k, 9);
            let together = matrix.matmul_t(&x, many);
            for (first, count) in [
                (0, 1),
                (1, 2),
                (3, 3),
                (6, 5),
                (64, 49),
                (113, 18),
                (130, 1),
            ] {
                let some = matrix.matmul_t(&x[first * k..(first + count) * k], count);
                let same = some
                    .iter()
                    .zip(&together[first * n..])
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{format:?} {n}x{k}: {count} rows from {first} on");
            }
        }
    }
}
