use std::borrow::Cow;

use candle_core::Device;
use candle_core::quantized::{QStorage, QTensor};
use proptest::prelude::*;

use super::super::matmul::matmul_t;
use super::*;

/// What candle widens these blocks to.
fn by_candle(format: &BlockFormat, blocks: &[u8]) -> Vec<f32> {
    let storage = QStorage::from_data(Cow::Borrowed(blocks), &Device::Cpu, format.dtype).unwrap();
    let count = blocks.len() / format.bytes() * format.weights();
    let tensor = QTensor::new(storage, (1, count)).unwrap();
    let wide = tensor.dequantize(&Device::Cpu).unwrap();
    wide.flatten_all().unwrap().to_vec1().unwrap()
}

/// Blocks of any bits, with scales that are finite.
fn blocks(format: &BlockFormat, count: usize, seed: u64) -> Vec<u8> {
    let bytes = format.bytes() * count;
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    let mut all: Vec<u8> = (0..bytes).map(|_| next()).collect();
    for block in all.chunks_exact_mut(format.bytes()) {
        for at in format.scales {
            // The largest exponent is that of what is not finite.
            block[at + 1] &= 0xbf;
        }
    }
    all
}

proptest! {
    #[test]
    fn every_format_is_widened_as_candle_does(seed: u64, count in 1..4usize) {
        for format in &FORMATS {
            let blocks = blocks(format, count, seed);
            prop_assert!(format.is_finite(&blocks));
            let mut wide = vec![0.0; count * format.weights()];
            format.widen(&blocks, &mut wide);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            let candle = by_candle(format, &blocks);
            prop_assert_eq!(bits(&wide), bits(&candle), "{:?}", format.dtype);
        }
    }
}

#[test]
fn scales_that_are_no_numbers_are_found() {
    for format in &FORMATS {
        let good = blocks(format, 3, 7);
        for at in format.scales {
            for scale in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
                let mut bad = good.clone();
                bad[format.bytes() + at..][..2].copy_from_slice(&scale.to_le_bytes());
                assert!(!format.is_finite(&bad), "{:?} {at}", format.dtype);
                let wide = by_candle(format, &bad);
                assert!(wide.iter().any(|value| !value.is_finite()));
            }
        }
    }
}

#[test]
fn a_product_is_that_of_the_widened_matrix() {
    for format in &FORMATS {
        for (m, n, k) in [(1, 33, 1280), (3, 20, 512), (16, 9, 256), (40, 70, 768)] {
            let blocks = blocks(format, n * k / format.weights(), (m * n * k) as u64);
            let wide = by_candle(format, &blocks);
            let matrix = BlockMatrix::new(format, (n, k), blocks).unwrap();
            let x: Vec<f32> = (0..m * k).map(|i| (i * 31 % 97) as f32 - 48.0).collect();
            let mut out = vec![f32::NAN; m * n];
            matrix.matmul_t_into(&x, m, &mut out);
            let want = matmul_t(&x, &wide, (m, n, k));
            // Sums of the same products in another order.
            for (i, (out, want)) in out.iter().zip(&want).enumerate() {
                let (row, w) = (i / n, &wide[i % n * k..][..k]);
                let x = &x[row * k..][..k];
                let size: f32 = x.iter().zip(w).map(|(x, w)| (x * w).abs()).sum();
                assert!(
                    (out - want).abs() <= 1e-6 * size,
                    "{:?} {m}x{n}x{k} at {i}: {out} {want}",
                    format.dtype
                );
            }
        }
    }
}

#[test]
fn other_sizes_are_no_matrix() {
    let format = BlockFormat::of(GgmlDType::Q8_0).unwrap();
    assert!(BlockMatrix::new(format, (2, 64), vec![0; 4 * 34]).is_some());
    assert!(BlockMatrix::new(format, (2, 64), vec![0; 4 * 34 - 1]).is_none());
    assert!(BlockMatrix::new(format, (2, 40), vec![0; 2 * 34]).is_none());
    assert!(BlockMatrix::new(format, (usize::MAX, 64), vec![0; 34]).is_none());
    assert!(BlockFormat::of(GgmlDType::Q8K).is_none());
    assert!(BlockFormat::of(GgmlDType::F16).is_none());
}
