//! Layers that a checkpoint has quantised: each format packed here, by its published layout,
//! against the weights that its formula gives.

mod awq;
mod compressed;
pub mod fp8;
mod gptq;
mod malformed;
mod model;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::f16;
use qwen3_vl::config::quantization::{Bits, Groups, Quantization};
use qwen3_vl::model::linear::{Linear, Reused};
use qwen3_vl::weights::{Target, Weights, WeightsError};
use safetensors::{Dtype, tensor::TensorView};

/// Type, shape and bytes.
type Stored = (Dtype, Vec<usize>, Vec<u8>);
type Tensors = BTreeMap<String, Stored>;

const LAYER: &str = "model.language_model.layers.0.mlp.up_proj";

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Weights of a file of its own.
fn opened(tensors: &Tensors, quantization: &Quantization) -> Weights {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("model.safetensors"), tensors);
    let mut weights = Weights::open(folder.path(), Target::cpu()).unwrap();
    weights.set_quantization(Some(quantization.clone()));
    weights
}

/// The layer of these tensors, all of which it must read.
fn load(
    tensors: &Tensors,
    quantization: &Quantization,
    shape: (usize, usize),
) -> Result<Linear, WeightsError> {
    let weights = opened(tensors, quantization);
    let layer = Linear::load(&weights, LAYER, shape)?;
    weights.ensure_all_read(&["model."])?;
    Ok(layer)
}

fn named(parts: impl IntoIterator<Item = (&'static str, Stored)>) -> Tensors {
    let name = |(part, stored)| (format!("{LAYER}.{part}"), stored);
    parts.into_iter().map(name).collect()
}

fn i32s(shape: &[usize], words: impl IntoIterator<Item = u32>) -> Stored {
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    assert_eq!(bytes.len(), 4 * shape.iter().product::<usize>());
    (Dtype::I32, shape.to_vec(), bytes)
}

fn f16s(shape: &[usize], values: impl IntoIterator<Item = f16>) -> Stored {
    let bytes = values.into_iter().flat_map(f16::to_le_bytes).collect();
    (Dtype::F16, shape.to_vec(), bytes)
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    /// From -1 to 1.
    fn value(&mut self) -> f32 {
        self.below(2001) as f32 / 1000.0 - 1.0
    }
}

/// A matrix of integers, by its meaning: which are the weights.
struct Integers {
    n: usize,
    k: usize,
    bits: usize,
    /// `[n][k]`.
    q: Vec<u32>,
    /// The group of each column.
    group: Vec<usize>,
    groups: usize,
    /// `[n][groups]`.
    scales: Vec<f16>,
    /// `[n][groups]`.
    zeros: Vec<u32>,
}

impl Integers {
    /// Groups of `size` columns that follow each other; zero points from `least` on.
    fn new(
        (n, k): (usize, usize),
        bits: usize,
        size: Option<usize>,
        least: u32,
        seed: u64,
    ) -> Self {
        let mut random = Random(seed);
        let size = size.unwrap_or(k);
        let (groups, count) = (k.div_ceil(size), 1 << bits);
        let scales = (0..n * groups).map(|_| f16::from_f32(random.value() / 16.0));
        let scales = scales.collect();
        Self {
            n,
            k,
            bits,
            q: (0..n * k).map(|_| random.below(count) as u32).collect(),
            group: (0..k).map(|column| column / size).collect(),
            groups,
            scales,
            zeros: (0..n * groups)
                .map(|_| random.below(count) as u32 + least)
                .collect(),
        }
    }

    fn symmetric(mut self) -> Self {
        self.zeros.fill(1 << (self.bits - 1));
        self
    }

    fn q(&self, row: usize, column: usize) -> u32 {
        self.q[row * self.k + column]
    }

    fn scale(&self, row: usize, group: usize) -> f16 {
        self.scales[row * self.groups + group]
    }

    fn zero(&self, row: usize, group: usize) -> u32 {
        self.zeros[row * self.groups + group]
    }

    /// `(q - z) * s` in f32, `[n][k]`.
    fn weights(&self) -> Vec<f32> {
        let weight = |row: usize, column: usize| {
            let group = self.group[column];
            let difference = self.q(row, column) as f32 - self.zero(row, group) as f32;
            difference * self.scale(row, group).to_f32()
        };
        let row = |row| (0..self.k).map(move |column| (row, column));
        (0..self.n)
            .flat_map(row)
            .map(|(row, column)| weight(row, column))
            .collect()
    }

    fn per_word(&self) -> usize {
        32 / self.bits
    }

    fn groups(&self, size: Option<usize>) -> Groups {
        let bits = if self.bits == 4 {
            Bits::Four
        } else {
            Bits::Eight
        };
        Groups { bits, size }
    }
}

/// Integers of `bits` bits in a word, the first in the lowest.
fn word(bits: usize, integers: impl IntoIterator<Item = u32>) -> u32 {
    integers
        .into_iter()
        .zip(0..)
        .fold(0, |word, (integer, place)| {
            assert!(integer < 1 << bits);
            word | integer << (bits as u32 * place)
        })
}

/// That a layer multiplies with exactly these weights `[n][k]`: its products with unit vectors, few
/// and many at a time, are the weights themselves, and others are what f64 gives.
fn assert_is(layer: &Linear, weights: &[f32], (n, k): (usize, usize)) {
    let tensor =
        |values: Vec<f32>, m: usize| Tensor::from_vec(values, (m, k), &Device::Cpu).unwrap();
    let forward = |x: &Tensor| -> Vec<f32> {
        let out = layer.forward(x).unwrap();
        assert_eq!(
            (out.dims(), out.dtype()),
            (&[x.dim(0).unwrap(), n][..], DType::F32)
        );
        out.flatten_all().unwrap().to_vec1().unwrap()
    };
    for together in [1, 16, k] {
        // One at a time takes long.
        let step = if together == 1 { 7 } else { 1 };
        let columns: Vec<usize> = (0..k).step_by(step).collect();
        for columns in columns.chunks(together) {
            let mut x = vec![0.0; columns.len() * k];
            for (row, column) in columns.iter().enumerate() {
                x[row * k + column] = 1.0;
            }
            let out = forward(&tensor(x, columns.len()));
            for (row, column) in columns.iter().enumerate() {
                for output in 0..n {
                    let (got, want) = (out[row * n + output], weights[output * k + column]);
                    assert!(got == want, "[{output}, {column}] is {got}, not {want}");
                }
            }
        }
    }
    let mut random = Random(7);
    let mut reused = Reused::default();
    for m in [1, 2, 3, 5, 16, 17, 40] {
        let x: Vec<f32> = (0..m * k).map(|_| random.value()).collect();
        let x_tensor = tensor(x.clone(), m);
        let out = forward(&x_tensor);
        for (index, got) in out.iter().enumerate() {
            let (x, w) = (&x[index / n * k..][..k], &weights[index % n * k..][..k]);
            let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            let error = (f64::from(*got) - sum).abs();
            assert!(error <= 2e-6 * size + 1e-30, "{m} rows: {got}, not {sum}");
        }
        let again = layer.forward_into(&x_tensor, &mut reused).unwrap();
        let again: Vec<f32> = again.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(out, again, "{m} rows");
    }
}
