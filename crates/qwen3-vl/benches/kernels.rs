//! Times the CPU kernels at the sizes of the 2B model's language model: a token, a few tokens and a
//! window's prompt in its widest linear layer, for each type of weights, and in attention.
//!
//! `cargo bench -p qwen3-vl --bench kernels`; whole windows are timed by `engine bench`.
#![allow(missing_docs, clippy::print_stdout)]

use std::hint::black_box;
use std::ops::Range;

use candle_core::quantized::GgmlDType;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use qwen3_vl::cpu::attention::{Block, Shape, attend};
use qwen3_vl::cpu::bf16::{Bf16Isa, Bf16Matrix};
use qwen3_vl::cpu::dot::DotWeight;
use qwen3_vl::cpu::fp8::Fp8Matrix;
use qwen3_vl::cpu::int8::Int8Matrix;
use qwen3_vl::cpu::matmul::{matmul_t, matmul_t_into};
use qwen3_vl::cpu::packed::{Columns, PackedInt8, PackedMatrix, Scales, Zeros};
use qwen3_vl::cpu::quantized::{Format, QuantizedMatrix, round};
use qwen3_vl_testing::weights::hash_fill;

/// Outputs and inputs of the gate and up projections.
const LAYER: (usize, usize) = (6144, 2048);
/// Tokens: 1 to 32 decoding windows, a frame pair of 320x256, a window of 8 frames.
const TOKENS: [usize; 7] = [1, 4, 8, 16, 32, 91, 364];
/// `x Wᵀ` of m rows of x, into the last argument.
type Product<'a> = &'a dyn Fn(&[f32], usize, &mut [f32]);

/// Tokens per KV block.
const BLOCK: usize = 128;

fn linear(c: &mut Criterion) {
    let (n, k) = LAYER;
    let weights = hash_fill("w", &[n, k], 1);
    let x = hash_fill("x", &[TOKENS[6], k], 2);
    let mut group = c.benchmark_group("linear");
    group.sample_size(10);
    let mut time = |name: &str, run: &dyn Fn(&[f32], usize) -> Vec<f32>| {
        for m in TOKENS {
            group.throughput(Throughput::Elements(m as u64));
            let id = BenchmarkId::new(name, m);
            group.bench_function(id, |b| b.iter(|| run(black_box(&x[..m * k]), m)));
        }
    };
    fn plain<W: DotWeight>(w: &[W]) -> impl Fn(&[f32], usize) -> Vec<f32> {
        |x, m| matmul_t(x, w, (m, LAYER.0, LAYER.1))
    }
    time("f32", &plain(&weights));
    let halves: Vec<_> = weights.iter().map(|w| bf16::from_f32(*w)).collect();
    time("bf16", &plain(&halves));
    let halves: Vec<_> = weights.iter().map(|w| f16::from_f32(*w)).collect();
    time("f16", &plain(&halves));
    for (name, format) in [("q8-0", Format::Q8_0), ("q4-k", Format::Q4K)] {
        let matrix = QuantizedMatrix::quantize(format, LAYER, |rows, out| {
            out.copy_from_slice(&weights[rows.start * k..rows.end * k]);
        });
        let Some(matrix) = matrix else { return };
        time(name, &|x, m| matrix.matmul_t(x, m));
    }
    // As a checkpoint has them: 8 bits in blocks of 128, integers in groups of 128.
    let into = |m: usize, run: &dyn Fn(&mut [f32])| {
        let mut out = vec![0.0; m * n];
        run(&mut out);
        out
    };
    let bytes: Vec<u8> = (0..n * k).map(|i| (i * 31 % 0x7f) as u8).collect();
    let scales = vec![0.01; n.div_ceil(128) * k.div_ceil(128)];
    let matrix = Fp8Matrix::new((n, k), bytes.clone(), (128, 128), scales);
    time("fp8", &|x, m| {
        into(m, &|out| matrix.matmul_t_into(x, m, out))
    });
    for (name, wide) in [("int4", false), ("int8", true)] {
        let columns = Columns::in_sequence(k, 128);
        let groups = n * columns.groups().len();
        let scales = Scales::F16(vec![f16::from_f32(0.01); groups]);
        let zeros = Zeros::new((0..groups).map(|group| (group % 16) as u8).collect(), 0);
        let fill = |rows: Range<usize>, out: &mut [u8]| {
            out.copy_from_slice(&bytes[rows.start * k..rows.end * k]);
        };
        let matrix = PackedMatrix::new(n, columns, wide, (scales, zeros), fill);
        let Some(matrix) = matrix else { return };
        time(name, &|x, m| {
            into(m, &|out| matrix.matmul_t_into(x, m, out))
        });
    }
}

/// What `compute=fast` makes of weights that a checkpoint has quantised, beside f32 products of the
/// same: a token, 4, 64 and 512 of them in a layer of the 4B model.
fn int8_products(c: &mut Criterion) {
    const LAYER: (usize, usize) = (9728, 2560);
    let (n, k) = LAYER;
    let weights = hash_fill("w", &[n, k], 1);
    let x = hash_fill("x", &[512, k], 2);
    let mut out = vec![0.0; 512 * n];
    let mut group = c.benchmark_group("int8");
    group.sample_size(10);
    let mut time = |name: &str, run: Product<'_>| {
        for m in [1, 4, 64, 512] {
            group.throughput(Throughput::Elements(m as u64));
            group.bench_function(BenchmarkId::new(name, m), |b| {
                b.iter(|| run(black_box(&x[..m * k]), m, &mut out[..m * n]));
            });
        }
    };
    time("f32", &|x, m, out| {
        matmul_t_into(x, &weights, (m, n, k), out)
    });
    for (name, wide) in [("4-bit", false), ("8-bit", true)] {
        let columns = Columns::in_sequence(k, 128);
        let groups = n * columns.groups().len();
        let of_groups = || {
            let zeros = (0..groups).map(|group| (group % 16) as u8).collect();
            let scales = Scales::F16(vec![f16::from_f32(0.01); groups]);
            (scales, Zeros::new(zeros, 0))
        };
        let fill = |rows: Range<usize>, out: &mut [u8]| {
            for (out, i) in out.iter_mut().zip(rows.start * k..) {
                *out = (i * 31 % 0x7f) as u8;
            }
        };
        let exact = PackedMatrix::new(n, columns.clone(), wide, of_groups(), fill);
        let fast = PackedInt8::new(n, columns, wide, of_groups(), fill);
        let (Some(exact), Some(fast)) = (exact, fast) else {
            return;
        };
        time(&format!("{name} in f32"), &|x, m, out| {
            exact.matmul_t_into(x, m, out)
        });
        time(name, &|x, m, out| fast.matmul_t_into(x, m, out));
    }
    for (name, format) in [("q8-0", Format::Q8_0), ("q4-k", Format::Q4K)] {
        let widened = |rows: Range<usize>, out: &mut [f32]| {
            out.copy_from_slice(&weights[rows.start * k..rows.end * k]);
        };
        if let Some(exact) = round(format, LAYER, widened) {
            time(&format!("{name} in f32"), &|x, m, out| {
                exact.matmul_t_into(x, m, out)
            });
        }
        if let Some(fast) = QuantizedMatrix::quantize(format, LAYER, widened) {
            time(name, &|x, m, out| fast.matmul_t_into(x, m, out));
        }
    }
    // What a head has in llama.cpp's Q4_K_M; any bits are weights.
    let blocks = |rows: Range<usize>| {
        let bytes = rows.len() * k / 256 * 210;
        Ok::<_, ()>((0..bytes).map(|i| (i % 61) as u8).collect::<Vec<u8>>())
    };
    if let Ok(Some(fast)) = Int8Matrix::of_blocks(GgmlDType::Q6K, LAYER, blocks) {
        time("q6_k", &|x, m, out| fast.matmul_t_into(x, m, out));
    }
}

/// What `compute=fast` makes of weights in numbers: a token, 16 of them, a window's.
fn bf16_products(c: &mut Criterion) {
    let Some(isa) = Bf16Isa::of_this_cpu() else {
        println!("linear/bf16-products: not on this CPU, which has no AVX512-BF16");
        return;
    };
    let (n, k) = LAYER;
    let weights = hash_fill("w", &[n, k], 1);
    let some = |rows: Range<usize>| Ok::<_, ()>(weights[rows.start * k..rows.end * k].to_vec());
    let Ok(matrix) = Bf16Matrix::round(isa, LAYER, some) else {
        return;
    };
    let mut group = c.benchmark_group("linear");
    group.sample_size(10);
    for m in [1, 16, 512] {
        let x = hash_fill("x", &[m, k], 2);
        let mut out = vec![0.0; m * n];
        group.throughput(Throughput::Elements(m as u64));
        group.bench_function(BenchmarkId::new("bf16-products", m), |b| {
            b.iter(|| matrix.matmul_t_into(black_box(&x), m, &mut out));
        });
    }
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    group.sample_size(10);
    for (queries, keys) in [(1, 400), (1, 3000), (91, 3000), (364, 364)] {
        let shape = Shape {
            queries,
            keys,
            heads: 16,
            kv_heads: 8,
            head_dim: 128,
            causal: true,
        };
        let q = hash_fill("q", &[queries * shape.heads * shape.head_dim], 3);
        let count = keys.next_multiple_of(BLOCK) * shape.kv_heads * shape.head_dim;
        let values = hash_fill("kv", &[count], 4);
        let blocks: Vec<_> = values
            .chunks_exact(BLOCK * shape.kv_heads * shape.head_dim)
            .map(|values| Block {
                keys: values,
                values,
            })
            .collect();
        let id = BenchmarkId::from_parameter(format!("{queries} of {keys}"));
        group.bench_function(id, |b| {
            b.iter(|| attend(black_box(&q), &blocks, BLOCK, shape))
        });
    }
}

criterion_group!(kernels, linear, int8_products, bf16_products, attention);
criterion_main!(kernels);
