//! The CUDA kernels, run on the CPU by `emulate.h`, against their twins in `qwen3_vl::cpu`. On a GPU
//! `engine kernels` makes the same comparisons (`scripts/gpu-check`).

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

use half::bf16;
use libloading::{Library, Symbol};
use qwen3_vl::cpu::activation;
use qwen3_vl::cpu::attention::{Block, Shape, attend};
use qwen3_vl::model::kv_cache::BLOCK_TOKENS;
use qwen3_vl::testing::weights::hash_fill;

const HEAD: usize = 128;

/// The kernels as a library of the CPU. A launch belongs to one thread from its shape to its end.
static KERNELS: LazyLock<Mutex<Library>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("kernels.so");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let done = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Werror"])
        .arg("-include")
        .arg(root.join("tests/kernels/emulate.h"))
        .args(["-x", "c++"])
        .arg(root.join("kernels/kernels.cu"))
        .arg("-o")
        .arg(&library)
        .status()
        .unwrap_or_else(|e| panic!("{compiler}: {e}"));
    assert!(done.success(), "the kernels do not compile");
    // SAFETY: the library has no initialisers.
    Mutex::new(unsafe { Library::new(library) }.unwrap())
});

/// Runs a kernel: its name and type, the grid, the threads of a block, its arguments.
macro_rules! launch {
    ($name:expr, fn($($type:ty),*), $grid:expr, $threads:expr, ($($argument:expr),*)) => {{
        let kernels = KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
        let (x, y, z): (u32, u32, u32) = $grid;
        // SAFETY: the types are those of the sources, and the arguments as large as the grid says.
        unsafe {
            let shape: Symbol<'_, unsafe extern "C" fn(u32, u32, u32, u32)> =
                kernels.get(b"launch_shape").unwrap();
            let kernel: Symbol<'_, unsafe extern "C" fn($($type),*)> =
                kernels.get($name.as_bytes()).unwrap();
            shape(x, y, z, $threads);
            kernel($($argument),*);
        }
    }};
}

/// A type of values that the kernels have.
trait Value: Copy + Default + 'static {
    const NAME: &'static str;
    /// How far a rounded result may be from an exact one, relative to the largest.
    const STEP: f32;
    fn of(value: f32) -> Self;
    fn wide(self) -> f32;
}

impl Value for f32 {
    const NAME: &'static str = "f32";
    const STEP: f32 = 2e-6;
    fn of(value: f32) -> Self {
        value
    }
    fn wide(self) -> f32 {
        self
    }
}

impl Value for bf16 {
    const NAME: &'static str = "bf16";
    // Half a step of 8 bits.
    const STEP: f32 = 1.0 / 256.0;
    fn of(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn wide(self) -> f32 {
        self.to_f32()
    }
}

fn random<T: Value>(name: &str, count: usize, seed: u64) -> Vec<T> {
    let values = hash_fill(name, &[count], seed).into_iter();
    values.map(|value| T::of(3.0 * value)).collect()
}

fn wide<T: Value>(values: &[T]) -> Vec<f32> {
    values.iter().map(|value| value.wide()).collect()
}

fn close<T: Value>(what: &str, got: &[T], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f32, |most, value| most.max(value.abs()));
    assert!(largest > 0.0, "{what}: nothing to compare");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let difference = (got.wide() - want).abs();
        assert!(
            difference <= T::STEP * largest,
            "{what} {} at {i}: {}, not {want}",
            T::NAME,
            got.wide()
        );
    }
}

/// Sequences of these lengths, each with blocks of its own in no order.
fn decode_attention<T: Value>(lengths: &[u32], (heads, kv_heads): (usize, usize), splits: usize) {
    let seed = lengths.iter().map(|n| u64::from(*n)).sum();
    let blocks = lengths.iter().max().unwrap().div_ceil(BLOCK_TOKENS as u32) as usize;
    let size = BLOCK_TOKENS * kv_heads * HEAD;
    let keys: Vec<T> = random("keys", lengths.len() * blocks * size, seed);
    let values: Vec<T> = random("values", lengths.len() * blocks * size, seed);
    let q: Vec<T> = random("q", lengths.len() * heads * HEAD, seed);
    let place = |sequence: usize, block: usize| (block * lengths.len() + sequence) * size;
    let table = |of: &[T]| -> Vec<u64> {
        let sequences = 0..lengths.len();
        let places = sequences.flat_map(|s| (0..blocks).map(move |b| place(s, b)));
        places.map(|at| &raw const of[at] as u64).collect()
    };
    let (key_table, value_table) = (table(&keys), table(&values));
    let mut partial = vec![f32::NAN; lengths.len() * heads * splits * (HEAD + 2)];
    let mut out = vec![T::default(); lengths.len() * heads * HEAD];
    let scale = (HEAD as f32).powf(-0.5);
    launch!(
        format!("decode_attention_{}_{}", T::NAME, heads / kv_heads),
        fn(*const T, *const u64, *const u64, *const u32, *mut f32, u32, u32, f32),
        (kv_heads as u32, splits as u32, lengths.len() as u32),
        128,
        (
            q.as_ptr(),
            key_table.as_ptr(),
            value_table.as_ptr(),
            lengths.as_ptr(),
            partial.as_mut_ptr(),
            heads as u32,
            blocks as u32,
            scale
        )
    );
    launch!(
        format!("decode_attention_merge_{}", T::NAME),
        fn(*const f32, *mut T, u32),
        (heads as u32, lengths.len() as u32, 1),
        128,
        (partial.as_ptr(), out.as_mut_ptr(), splits as u32)
    );
    let (keys, values, q) = (wide(&keys), wide(&values), wide(&q));
    for (sequence, length) in lengths.iter().enumerate() {
        let part = |of| -> Vec<&[f32]> {
            let of: &Vec<f32> = of;
            (0..blocks)
                .map(|b| &of[place(sequence, b)..][..size])
                .collect()
        };
        let pairs = part(&keys).into_iter().zip(part(&values));
        let blocks: Vec<_> = pairs.map(|(keys, values)| Block { keys, values }).collect();
        let shape = Shape {
            queries: 1,
            keys: *length as usize,
            heads,
            kv_heads,
            head_dim: HEAD,
            causal: true,
        };
        let row = sequence * heads * HEAD..(sequence + 1) * heads * HEAD;
        let want = attend(&q[row.clone()], &blocks, BLOCK_TOKENS, shape);
        close(&format!("attention of {length} keys"), &out[row], &want);
    }
}

#[test]
fn decode_attention_of_one_sequence() {
    for length in [1, 2, 7, 8, 127, 128, 129, 300] {
        for splits in [1, 3, 8] {
            decode_attention::<f32>(&[length], (4, 2), splits);
        }
    }
    decode_attention::<bf16>(&[300], (4, 2), 3);
}

#[test]
fn decode_attention_of_sequences_of_different_lengths() {
    decode_attention::<f32>(&[5, 400, 130], (8, 2), 4);
    decode_attention::<bf16>(&[200, 1], (8, 2), 2);
}

#[test]
fn decode_attention_of_every_number_of_heads_that_share_a_key() {
    for heads in [1, 2, 4, 8] {
        decode_attention::<f32>(&[150], (heads, 1), 2);
        decode_attention::<bf16>(&[150], (heads, 1), 2);
    }
}

fn silu_mul<T: Value>() {
    let count = 1000;
    let (mut gate, up): (Vec<T>, Vec<T>) = (random("gate", count, 1), random("up", count, 2));
    let mut want = wide(&gate);
    activation::silu_mul(&mut want, &wide(&up));
    launch!(
        format!("silu_mul_{}", T::NAME),
        fn(*mut T, *const T, u64),
        (4, 1, 1),
        256,
        (gate.as_mut_ptr(), up.as_ptr(), count as u64)
    );
    close("silu_mul", &gate, &want);
}

#[test]
fn silu_mul_is_that_of_the_cpu() {
    silu_mul::<f32>();
    silu_mul::<bf16>();
}

/// Rows of several heads, of whose queries each sees one key more than the last.
fn softmax<T: Value>((heads, queries, keys): (usize, usize, usize), seen: usize) {
    let mut scores: Vec<T> = random("scores", heads * queries * keys, keys as u64);
    let scale = 0.7;
    let mut want = vec![0.0; scores.len()];
    let rows = want.chunks_exact_mut(keys).zip(scores.chunks_exact(keys));
    for (row, (want, scores)) in rows.enumerate() {
        let seen = (seen + row % queries).min(keys);
        let scores = scores[..seen]
            .iter()
            .map(|score| f64::from(scale * score.wide()));
        let weights: Vec<f64> = scores.map(f64::exp).collect();
        let sum: f64 = weights.iter().sum();
        for (want, weight) in want.iter_mut().zip(weights) {
            *want = (weight / sum) as f32;
        }
    }
    launch!(
        format!("softmax_{}", T::NAME),
        fn(*mut T, u32, u32, u32, f32),
        ((heads * queries) as u32, 1, 1),
        256,
        (
            scores.as_mut_ptr(),
            queries as u32,
            keys as u32,
            seen as u32,
            scale
        )
    );
    close("softmax", &scores, &want);
}

#[test]
fn softmax_is_its_definition() {
    for (shape, seen) in [
        ((2, 1, 1), 1),
        ((2, 3, 5), 3),
        ((1, 4, 700), 697),
        ((2, 3, 300), 300),
    ] {
        softmax::<f32>(shape, seen);
        softmax::<bf16>(shape, seen);
    }
}
