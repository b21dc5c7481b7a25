use std::convert::Infallible;

use candle_core::quantized::GgmlDType;
use half::f16;
use proptest::prelude::*;

use super::*;
use crate::cpu::blocks::BlockFormat;
use crate::cpu::packed::Zeros;

const TYPES: [GgmlDType; 8] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

/// Numbers that look random.
fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 33
    }
}

/// From -1 to 1, in runs of very different sizes.
fn inputs(count: usize, seed: u64) -> Vec<f32> {
    let mut next = numbers(seed);
    let size = |i: usize| [1.0, 0.01, 30.0][i / 32 % 3];
    (0..count)
        .map(|_| (next() % 2001) as f32 / 1000.0 - 1.0)
        .enumerate()
        .map(|(i, value)| value * size(i))
        .collect()
}

/// Blocks of any bits with scales of usual sizes, and the matrix of them.
fn of_blocks(dtype: GgmlDType, (n, k): (usize, usize), seed: u64) -> (Vec<f32>, Int8Matrix) {
    let format = BlockFormat::of(dtype).unwrap();
    let of_row = k / format.weights() * format.bytes();
    let mut next = numbers(seed);
    let mut blocks: Vec<u8> = (0..n * of_row).map(|_| next() as u8).collect();
    for block in blocks.chunks_exact_mut(format.bytes()) {
        for at in format.scales() {
            let scale = f16::from_f32((next() % 200) as f32 / 1e4 - 0.005);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    let mut wide = vec![0.0; n * k];
    format.widen(&blocks, &mut wide);
    let read = |rows: std::ops::Range<usize>| {
        Ok::<_, Infallible>(blocks[rows.start * of_row..rows.end * of_row].to_vec())
    };
    let matrix = Int8Matrix::of_blocks(dtype, (n, k), read).unwrap();
    (wide, matrix.unwrap())
}

/// Integers of 4 or 8 bits in groups of some runs, and their weights.
fn of_groups(bits: Bits, (n, k): (usize, usize), seed: u64) -> (Vec<f32>, Int8Matrix) {
    let mut next = numbers(seed);
    let (runs, panels) = (k.div_ceil(RUN), n.div_ceil(PANEL));
    let of_runs: Vec<u32> = (0..runs).map(|run| run as u32 / 3).collect();
    let count = runs.div_ceil(3);
    let most = 1 << bits.count();
    let q: Vec<u8> = (0..n * k).map(|_| (next() % most) as u8).collect();
    let scales: Vec<f32> = (0..panels * count * PANEL)
        .map(|_| (next() % 200) as f32 / 1e4 - 0.01)
        .collect();
    let zeros: Vec<u8> = (0..scales.len()).map(|_| (next() % most) as u8).collect();
    let mut wide = Vec::new();
    for (row, q) in q.chunks_exact(k).enumerate() {
        for (column, q) in q.iter().enumerate() {
            let group = (row / PANEL * count + column / RUN / 3) * PANEL + row % PANEL;
            wide.push(scales[group] * (f32::from(*q) - f32::from(zeros[group]) - 1.0));
        }
    }
    let scales = Scales::Groups {
        scales: crate::cpu::packed::Scales::F32(scales),
        zeros: Zeros::new(zeros, 1),
        runs: of_runs,
        count,
    };
    let matrix = Int8Matrix::new((n, k), bits, scales, |panel, put| {
        for run in 0..runs {
            let integers = std::array::from_fn(|row| {
                std::array::from_fn(|column| {
                    let (row, column) = (panel * PANEL + row, run * RUN + column);
                    let inside = row < n && column < k;
                    if inside { q[row * k + column] } else { 0 }
                })
            });
            put(run, &integers);
        }
    });
    (wide, matrix.unwrap())
}

/// Matrices of all kinds of bits and scales, with their weights.
fn all(n: usize, runs: usize, seed: u64) -> Vec<(String, usize, Vec<f32>, Int8Matrix)> {
    let blocks = TYPES.map(|dtype| {
        let k = (runs * RUN).next_multiple_of(dtype.block_size());
        let (wide, matrix) = of_blocks(dtype, (n, k), seed);
        (format!("{dtype:?}"), k, wide, matrix)
    });
    let groups = [Bits::Four, Bits::Eight].map(|bits| {
        // The last run is not whole.
        let k = runs * RUN - 5;
        let (wide, matrix) = of_groups(bits, (n, k), seed);
        (format!("groups of {bits:?}"), k, wide, matrix)
    });
    blocks.into_iter().chain(groups).collect()
}

fn run(matrix: &Int8Matrix, isa: Isa, x: &[f32], m: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; m * matrix.rows];
    matrix.product(isa, x, m, &mut out);
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The instruction sets of this CPU.
fn sets() -> Vec<Isa> {
    let mut sets = vec![Isa::Plain];
    #[cfg(target_arch = "x86_64")]
    {
        if avx2::available() {
            sets.push(Isa::Avx2);
        }
        if vnni::available() {
            sets.push(Isa::Vnni);
        }
    }
    sets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The same bits from all instruction sets, from several stretches too.
    #[test]
    fn instruction_sets_agree(n in 1..40usize, runs in 1..40usize, m in 1..14usize, seed: u64) {
        for (name, k, _, matrix) in all(n, runs, seed) {
            let x = inputs(m * k, seed);
            let want = bits(&run(&matrix, Isa::Plain, &x, m));
            for isa in sets() {
                let got = bits(&run(&matrix, isa, &x, m));
                prop_assert_eq!(&got, &want, "{} {:?}", name, isa);
            }
        }
    }

    /// A row gives the same bits alone and at any place among others.
    #[test]
    fn a_row_does_not_depend_on_other_rows(n in 1..40usize, runs in 1..20usize, seed: u64) {
        let m = 13;
        for (name, k, _, matrix) in all(n, runs, seed) {
            let x = inputs(m * k, seed);
            let together = run(&matrix, Isa::of_this_cpu(), &x, m);
            for (first, count) in [(0, 1), (1, 1), (3, 2), (4, 5), (2, 9), (12, 1)] {
                let some = &x[first * k..(first + count) * k];
                let some = run(&matrix, Isa::of_this_cpu(), some, count);
                let want = &together[first * n..(first + count) * n];
                prop_assert_eq!(bits(&some), bits(want), "{}: {} from {}", name, count, first);
            }
        }
    }

    /// What f64 gives, but for rounding each value of x by half a step at most.
    #[test]
    fn only_x_is_rounded(n in 1..40usize, runs in 1..40usize, m in 1..6usize, seed: u64) {
        for (name, k, wide, matrix) in all(n, runs, seed) {
            let x = inputs(m * k, seed);
            let out = run(&matrix, Isa::of_this_cpu(), &x, m);
            for (i, got) in out.iter().enumerate() {
                let (x, w) = (&x[i / n * k..][..k], &wide[i % n * k..][..k]);
                let (mut want, mut error, mut size) = (0.0, 0.0, 0.0);
                for (x, w) in x.chunks(RUN).zip(w.chunks(RUN)) {
                    let most = x.iter().fold(0f32, |most, x| most.max(x.abs()));
                    let half_step = f64::from(most) / 254.0;
                    let weights = w.iter().map(|w| f64::from(w.abs())).sum::<f64>();
                    error += half_step * weights;
                    // What is added and taken away again may be larger: zero points.
                    size += f64::from(most) * (weights + 256.0 * 0.02 * RUN as f64);
                    let pairs = x.iter().zip(w);
                    want += pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
                }
                let difference = (f64::from(*got) - want).abs();
                let most = error * 1.001 + size * 1e-6;
                prop_assert!(difference <= most, "{name} at {i}: {got}, not {want} within {most}");
            }
        }
    }

    #[test]
    fn rows_are_widened(n in 1..40usize, runs in 1..40usize, seed: u64) {
        for (name, k, wide, matrix) in all(n, runs, seed) {
            let mut out = vec![f32::NAN; k];
            for (row, want) in wide.chunks_exact(k).enumerate() {
                matrix.widen_row(row, &mut out);
                for (got, want) in out.iter().zip(want) {
                    // Scale times integer and what is taken away are rounded apart.
                    prop_assert!((got - want).abs() <= 1e-6 * 64.0, "{name}: {got} {want}");
                }
            }
        }
    }
}

/// The largest integers and values of x, whose sums have the least room.
#[test]
fn sums_do_not_overflow() {
    for bits in [Bits::Four, Bits::Five, Bits::Six, Bits::Eight] {
        let (n, k) = (PANEL, 2 * RUN);
        let parts = k / RUN * bits.parts();
        let scales = match bits {
            Bits::Six => Scales::Halves {
                scales: vec![f16::ONE; n],
                of_halves: vec![1; n * parts],
            },
            _ => Scales::Runs {
                scales: vec![f16::ONE; n * parts],
                leasts: vec![f16::ZERO; n * parts],
            },
        };
        let most = ((1 << bits.count()) - 1) as u8;
        let matrix = Int8Matrix::new((n, k), bits, scales, |_, put| {
            (0..k / RUN).for_each(|run| put(run, &[[most; RUN]; PANEL]));
        });
        let matrix = matrix.unwrap();
        for x in [127.0, -127.0] {
            let least = if bits == Bits::Six { 32.0 } else { 0.0 };
            let want = (f32::from(most) - least) * x * k as f32;
            for isa in sets() {
                let got = run(&matrix, isa, &vec![x; k], 1);
                assert_eq!(got, vec![want; n], "{bits:?} {isa:?}");
            }
        }
    }
}

#[test]
fn matrices_without_integer_products_are_none() {
    let none = |dtype, dims| {
        let read = |_| Ok::<_, Infallible>(Vec::new());
        Int8Matrix::of_blocks(dtype, dims, read).unwrap().is_none()
    };
    assert!(none(GgmlDType::Q2K, (16, 256)) && none(GgmlDType::F16, (16, 256)));
    assert!(none(GgmlDType::Q4K, (16, 128)));
}

#[test]
fn memory_is_that_of_the_blocks() {
    for dtype in TYPES {
        let (n, k) = (32, 512);
        let (_, matrix) = of_blocks(dtype, (n, k), 1);
        let blocks = n * k / dtype.block_size() * dtype.type_size();
        // Scales of 6 bits become bytes.
        let more = match dtype {
            GgmlDType::Q4K | GgmlDType::Q5K => n * k / 256 * 4,
            _ => 0,
        };
        assert_eq!(matrix.bytes(), blocks + more, "{dtype:?}");
    }
}

#[test]
fn nothing_gives_zeros() {
    let (_, matrix) = of_groups(Bits::Four, (3, 64), 1);
    let mut out = [];
    matrix.matmul_t_into(&[], 0, &mut out);
    let zeros = run(&matrix, Isa::of_this_cpu(), &[0.0; 128], 2);
    assert_eq!(zeros, [0.0; 6]);
}
