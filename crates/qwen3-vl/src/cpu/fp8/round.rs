//! Rounds a matrix to FP8 with a scale for each block, as transformers does while it loads
//! (`Fp8Quantize`). Blocks at the edges, which transformers leave alone, are rounded too.

use std::ops::Range;

use rayon::prelude::*;

use super::{Fp8Matrix, LARGEST, blocks, is_scale};

/// Rows and columns of a block (transformers: `weight_block_size`).
pub const SIDE: usize = 128;

impl Fp8Matrix {
    /// Rounds a matrix `[rows, columns]`. `widened` writes a few of its rows as f32 at a time, so
    /// that there is never an f32 copy of the whole.
    pub fn quantize(
        (rows, columns): (usize, usize),
        widened: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) -> Self {
        let (down, across) = blocks((rows, columns), (SIDE, SIDE));
        let mut bytes = vec![0; rows * columns];
        let mut scales = vec![0.0; down * across];
        let of_block_row = bytes.par_chunks_mut((SIDE * columns).max(1));
        let of_block_row = of_block_row.zip(scales.par_chunks_mut(across.max(1)));
        of_block_row
            .enumerate()
            .for_each_init(Vec::new, |values, (index, (bytes, scales))| {
                values.resize(bytes.len(), 0.0);
                let first = index * SIDE;
                widened(first..first + bytes.len() / columns, values);
                for (block, scale) in scales.iter_mut().enumerate() {
                    let inside = block * SIDE..columns.min((block + 1) * SIDE);
                    *scale = round_block(values, bytes, columns, inside);
                }
            });
        Self::new((rows, columns), bytes, (SIDE, SIDE), scales)
    }

    /// The bytes, row by row.
    pub fn values(&self) -> &[u8] {
        &self.bytes
    }

    /// The scales of the blocks, row by row.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Memory that a rounded matrix takes.
    pub(crate) fn bytes_of((rows, columns): (usize, usize)) -> usize {
        let (down, across) = blocks((rows, columns), (SIDE, SIDE));
        let scales = down.saturating_mul(across).saturating_mul(size_of::<f32>());
        rows.saturating_mul(columns).saturating_add(scales)
    }
}

/// Rounds these columns of all rows, and returns the scale of the result.
fn round_block(values: &[f32], bytes: &mut [u8], columns: usize, inside: Range<usize>) -> f32 {
    let rows = values.chunks_exact(columns).map(|row| &row[inside.clone()]);
    let largest = rows
        .clone()
        .flatten()
        .fold(0.0, |most: f32, v| most.max(v.abs()));
    let up = match largest > 0.0 {
        // Rounded twice, as torch divides a number by a tensor.
        true => (1.0 / largest) * LARGEST,
        false => 1.0,
    };
    // Weights so small that their inverse overflows are zeros.
    let up = if up.is_finite() { up } else { 0.0 };
    for (row, bytes) in rows.zip(bytes.chunks_exact_mut(columns)) {
        for (value, byte) in row.iter().zip(&mut bytes[inside.clone()]) {
            *byte = round((value * up).clamp(-LARGEST, LARGEST));
        }
    }
    match 1.0 / up {
        down if is_scale(down) => down,
        _ if up == 0.0 => 1.0,
        // Of the largest f32 the inverse of the inverse may be too large.
        _ => f32::MAX / (2.0 * LARGEST) * 1.999,
    }
}

/// The nearest FP8 of a number up to [`LARGEST`]; of two, the one whose last bit is 0.
pub fn round(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let size = value.abs();
    // Below 2^-6 steps are 2^-9.
    let magnitude = match size < 1.0 / 64.0 {
        true => (size * 512.0).round_ties_even() as u8,
        false => {
            let bits = size.to_bits();
            let even = bits >> 20 & 1;
            let rounded = (bits + 0x7_ffff + even) >> 20;
            // The bias of exponents is 7, not 127.
            (rounded - (120 << 3)).min(0x7e) as u8
        }
    };
    sign | magnitude
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use proptest::prelude::*;

    use super::super::value;
    use super::*;

    /// No other number is nearer, and of two equally near ones the even one is taken.
    fn assert_nearest(number: f32) {
        let got = round(number);
        let distance = |byte: u8| (f64::from(value(byte)) - f64::from(number)).abs();
        for other in (0..=255_u8).filter(|byte| byte & 0x7f != 0x7f) {
            let (mine, its) = (distance(got), distance(other));
            assert!(mine <= its, "{number}: {got:#x}, not {other:#x}");
            let tie = mine == its && value(other) != value(got);
            assert!(!tie || got & 1 == 0, "{number}: {got:#x} and {other:#x}");
        }
        assert_eq!(got & 0x80 != 0, number.is_sign_negative());
    }

    #[test]
    fn numbers_between_two_go_to_the_even_one() {
        let all: Vec<f32> = (0..0x7e_u8).map(value).collect();
        for pair in all.windows(2) {
            let middle = (pair[0] + pair[1]) / 2.0;
            for number in [pair[0], middle, middle.next_down(), middle.next_up()] {
                assert_nearest(number);
                assert_nearest(-number);
            }
        }
        assert_nearest(448.0);
        assert_nearest(f32::MIN_POSITIVE / 4.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_number_goes_to_the_nearest(number in -448.0_f32..=448.0, exponent in -12..=0_i32) {
            assert_nearest(number * 2_f32.powi(exponent));
        }

        /// candle rounds as torch does.
        #[test]
        fn candle_agrees(numbers in prop::collection::vec(-448.0_f32..=448.0, 1..100)) {
            let tensor = Tensor::new(numbers.as_slice(), &Device::Cpu).unwrap();
            let theirs = tensor.to_dtype(DType::F8E4M3).unwrap().to_dtype(DType::F32).unwrap();
            let ours: Vec<f32> = numbers.iter().map(|number| value(round(*number))).collect();
            prop_assert_eq!(ours, theirs.to_vec1::<f32>().unwrap());
        }

        /// Any weights, in any shape: nothing panics, and each is as near as its block's scale
        /// allows.
        #[test]
        fn weights_stay_near(
            rows in 1..140_usize, columns in 1..300_usize, exponent in -127..=127_i32, seed: u64,
        ) {
            let power = 2_f32.powi(exponent);
            let at = |index: usize| {
                let hash = (index as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                (hash as f32 / (1 << 23) as f32 - 1.0) * power
            };
            let fill = |range: Range<usize>, out: &mut [f32]| {
                let first = range.start * columns;
                out.iter_mut().enumerate().for_each(|(index, out)| *out = at(first + index));
            };
            let matrix = Fp8Matrix::quantize((rows, columns), fill);
            prop_assert_eq!(matrix.bytes(), Fp8Matrix::bytes_of((rows, columns)));
            for (index, byte) in matrix.values().iter().enumerate() {
                let (row, column) = (index / columns, index % columns);
                let block = row / SIDE * columns.div_ceil(SIDE) + column / SIDE;
                let scale = matrix.scales()[block];
                let error = (value(*byte) * scale - at(index)).abs();
                // A sixteenth of the number, or half of the least step.
                let bound = at(index).abs() / 15.9 + scale / 1000.0 + 2e-36;
                prop_assert!(error <= bound, "{} to {byte:#x} * {scale}", at(index));
            }
        }
    }
}
