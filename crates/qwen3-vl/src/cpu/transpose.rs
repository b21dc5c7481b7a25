//! Transposes and widens weights, so that a matrix product reads them in sequence.

use super::dot::DotWeight;

/// `out[columns, rows] = w[rows, first..first + columns]ᵀ`, widened to f32; `w` has `stride`
/// values a row.
///
/// # Panics
///
/// If a slice is smaller than the sizes say.
pub fn transpose<W: DotWeight>(
    w: &[W],
    (rows, stride): (usize, usize),
    (first, columns): (usize, usize),
    out: &mut [f32],
) {
    assert!(
        first + columns <= stride && w.len() >= rows * stride && out.len() >= rows * columns,
        "transpose: sizes"
    );
    let mut done = (0, 0);
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        done = (
            rows / x86::SIDE * x86::SIDE,
            columns / x86::SIDE * x86::SIDE,
        );
        let sizes = x86::Sizes {
            rows,
            stride,
            first,
            done,
        };
        // SAFETY: the CPU has the instructions; the sizes have been checked.
        unsafe { x86::transpose(w, sizes, out) };
    }
    let mut copy = |rows_from: usize, columns_from: usize, columns_to: usize| {
        for row in rows_from..rows {
            let line = &w[row * stride + first..][..columns];
            for column in columns_from..columns_to {
                out[column * rows + row] = line[column].widen();
            }
        }
    };
    // The rest right of the squares, then below them.
    copy(0, done.1, columns);
    copy(done.0, 0, done.1);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::dot::{DotWeight, x86::Avx512};

    /// A square of f32 that fills 16 registers.
    pub const SIDE: usize = 16;

    #[derive(Clone, Copy)]
    pub struct Sizes {
        pub rows: usize,
        pub stride: usize,
        pub first: usize,
        /// Rows and columns to transpose, multiples of `SIDE`.
        pub done: (usize, usize),
    }

    /// # Safety
    ///
    /// The CPU has AVX-512F; `w` and `out` are as large as `sizes` says.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn transpose<W: DotWeight>(w: &[W], sizes: Sizes, out: &mut [f32]) {
        for row in (0..sizes.done.0).step_by(SIDE) {
            for column in (0..sizes.done.1).step_by(SIDE) {
                // SAFETY: the square lies inside both.
                unsafe {
                    let from = w.as_ptr().add(row * sizes.stride + sizes.first + column);
                    let to = out.as_mut_ptr().add(column * sizes.rows + row);
                    square(from, sizes.stride, to, sizes.rows);
                }
            }
        }
    }

    /// # Safety
    ///
    /// The CPU has AVX-512F; 16 rows of 16 values can be read from `from` and written to `to`.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn square<W: DotWeight>(from: *const W, stride: usize, to: *mut f32, out_stride: usize) {
        // SAFETY: the caller guarantees it.
        let rows: [__m512; SIDE] =
            std::array::from_fn(|i| unsafe { W::load::<Avx512>(from.add(i * stride)) });
        // Interleaves pairs of rows, then fours: quarter q of a register has column 4 q + (its
        // index in the four) of four rows.
        let mut fours = [_mm512_setzero_ps(); SIDE];
        for base in (0..SIDE).step_by(4) {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| rows[base + i]);
            let pairs = [
                _mm512_unpacklo_ps(a, b),
                _mm512_unpacklo_ps(c, d),
                _mm512_unpackhi_ps(a, b),
                _mm512_unpackhi_ps(c, d),
            ]
            .map(|pair| _mm512_castps_pd(pair));
            fours[base] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[0], pairs[1]));
            fours[base + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[0], pairs[1]));
            fours[base + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[2], pairs[3]));
            fours[base + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[2], pairs[3]));
        }
        for index in 0..4 {
            let [a, b, c, d] = [0, 4, 8, 12].map(|base| fours[base + index]);
            // Even quarters of a and b and of c and d; then the odd ones.
            let even = [
                _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
                _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d),
            ];
            let odd = [
                _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d),
            ];
            let columns = [
                _mm512_shuffle_f32x4::<0b10_00_10_00>(even[0], even[1]),
                _mm512_shuffle_f32x4::<0b10_00_10_00>(odd[0], odd[1]),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(even[0], even[1]),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(odd[0], odd[1]),
            ];
            for (quarter, column) in columns.into_iter().enumerate() {
                // SAFETY: the caller guarantees it.
                unsafe { _mm512_storeu_ps(to.add((4 * quarter + index) * out_stride), column) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn every_value_is_transposed() {
        fn check<W: DotWeight>(narrow: impl Fn(f32) -> W) {
            for (rows, stride, first, columns) in [
                (1, 5, 1, 3),
                (16, 16, 0, 16),
                (35, 70, 7, 50),
                (64, 128, 64, 64),
            ] {
                // Whole numbers up to 2047 are exact in f16, up to 255 in bf16.
                let value = |row: usize, column: usize| ((row * 31 + column * 7) % 251) as f32;
                let w: Vec<W> = (0..rows * stride)
                    .map(|i| narrow(value(i / stride, i % stride)))
                    .collect();
                let mut out = vec![f32::NAN; rows * columns];
                transpose(&w, (rows, stride), (first, columns), &mut out);
                for column in 0..columns {
                    for row in 0..rows {
                        assert_eq!(out[column * rows + row], value(row, first + column));
                    }
                }
            }
        }
        check(|v| v);
        check(bf16::from_f32);
        check(f16::from_f32);
    }
}
