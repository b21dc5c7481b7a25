//! Matrices in FP8 with scales of blocks, of rows or of the whole.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::product::{CpuMatrix, product, product_into};
use super::rounded::by_rows;
use crate::config::Quantization;
use crate::cpu::bf16::{Bf16Isa, Widened, matmul_t};
use crate::cpu::fp8::{Fp8Matrix, are_numbers, blocks, is_scale};
use crate::cpu::stored::StoredMatrix;
use crate::weights::{StoredTensor, Weights, WeightsError, type_name};

/// A weight `[out, in]` in FP8 (E4M3), and what multiplies it in bf16, if that is wanted.
#[derive(Clone, Debug)]
pub struct Fp8Weight(Arc<Fp8Product>);

#[derive(Debug)]
struct Fp8Product {
    matrix: Fp8Matrix,
    isa: Option<Bf16Isa>,
}

/// What the scales are called: by transformers, by compressed-tensors, by DeepSeek.
pub(super) const SCALES: [&str; 3] = ["weight_scale_inv", "weight_scale", "scale"];

/// Scales of activations that were rounded too: here they are not, which is more exact.
const OF_ACTIVATIONS: [&str; 2] = ["input_scale", "activation_scale"];

impl CpuMatrix for Fp8Product {
    const NAME: &'static str = "fp8-matmul-t";

    fn dims(&self) -> (usize, usize) {
        self.matrix.dims()
    }

    fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        let Some(isa) = self.isa else {
            return self.matrix.matmul_t_into(x, m, out);
        };
        let panels = Widened {
            matrix: &self.matrix,
            rows: self.matrix.dims().0,
        };
        matmul_t(&panels, isa, x, m, out);
    }
}

impl Fp8Weight {
    /// Loads the layer `name`, whose `weight` is in FP8, for products in bf16 by `isa`, else in
    /// f32.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        shape: (usize, usize),
        isa: Option<Bf16Isa>,
    ) -> std::result::Result<Self, WeightsError> {
        let (block, scales) = scales(weights, name, shape)?;
        let (name_of_weight, dims) = (format!("{name}.weight"), [shape.0, shape.1]);
        let count = shape.0.saturating_mul(shape.1);
        let stored = weights.stored(&name_of_weight, &dims, count)?;
        let bytes = read(&*stored)?;
        for name in OF_ACTIVATIONS.map(|part| format!("{name}.{part}")) {
            weights.pass_over(&name);
        }
        let matrix = Fp8Matrix::new(shape, bytes, block, scales);
        Ok(Self(Arc::new(Fp8Product { matrix, isa })))
    }

    /// Rounds a matrix of a checkpoint while reading it (transformers: `Fp8Quantize`).
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn round(
        weights: &Weights,
        name: &str,
        shape: (usize, usize),
        isa: Option<Bf16Isa>,
    ) -> std::result::Result<Self, WeightsError> {
        let (dims, bytes) = ([shape.0, shape.1], Fp8Matrix::bytes_of(shape));
        let stored = weights.stored(name, &dims, bytes)?;
        let matrix = by_rows(&*stored, shape, |rows| Fp8Matrix::quantize(shape, rows))?;
        Ok(Self(Arc::new(Fp8Product { matrix, isa })))
    }

    /// The matrix.
    pub fn matrix(&self) -> &Fp8Matrix {
        &self.0.matrix
    }

    /// `x Wᵀ` for `x` `[rows, in]` in f32.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit.
    pub(super) fn product(&self, x: &Tensor) -> Result<Tensor> {
        product(&*self.0, x)
    }

    /// The same into `out`.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit.
    pub(super) fn product_into(&self, x: &Tensor, out: &Tensor) -> Result<()> {
        product_into(&*self.0, x, out)
    }

    /// It as a GPU reads it; none if it cannot.
    pub(super) fn stored(&self) -> Option<StoredMatrix<'_>> {
        self.0.matrix.stored()
    }

    /// Rows of the matrix.
    pub(super) fn outputs(&self) -> usize {
        self.0.matrix.dims().0
    }

    /// Memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.0.matrix.bytes()
    }
}

/// All bytes of a tensor, which are numbers.
fn read(stored: &dyn StoredTensor) -> std::result::Result<Vec<u8>, WeightsError> {
    let mut bytes = Vec::new();
    let room = bytes.try_reserve_exact(stored.size());
    room.map_err(|_| WeightsError::Memory(stored.name().into()))?;
    bytes.resize(stored.size(), 0);
    stored.read(0, &mut bytes)?;
    match are_numbers(&bytes) {
        true => Ok(bytes),
        false => Err(WeightsError::NotFinite(stored.name().into())),
    }
}

/// Rows and columns of a block, and the scales. Their shape decides among the blocks that
/// config.json names, a scale for each row, and one for the whole.
fn scales(
    weights: &Weights,
    name: &str,
    shape: (usize, usize),
) -> std::result::Result<((usize, usize), Vec<f32>), WeightsError> {
    let part = |part: &&str| format!("{name}.{part}");
    let there = SCALES.iter().map(part).find(|name| weights.contains(name));
    let name = there.unwrap_or_else(|| part(&SCALES[0]));
    let named = match weights.quantization() {
        Some(Quantization::Fp8 { blocks }) => blocks.as_slice(),
        found => {
            let said = found.map_or("nothing of it".into(), |found| format!("{found}"));
            return Err(WeightsError::Unfit {
                name,
                reason: format!("is of a layer in FP8, and quantization_config says {said}"),
            });
        }
    };
    let mut candidates: Vec<((usize, usize), Vec<usize>)> = Vec::new();
    for block in named {
        let (down, across) = blocks(shape, *block);
        candidates.push((*block, vec![down, across]));
    }
    for scales in [vec![shape.0, 1], vec![shape.0]] {
        candidates.push(((1, shape.1.max(1)), scales));
    }
    for scales in [vec![1], vec![1, 1], vec![]] {
        candidates.push(((shape.0.max(1), shape.1.max(1)), scales));
    }
    let (sizes, shapes): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
    let (index, stored) = weights.stored_as(&name, &shapes)?;
    if !matches!(stored.stored_dtype(), DType::BF16 | DType::F16 | DType::F32) {
        return Err(WeightsError::Part {
            name: name.clone(),
            found: type_name(stored.stored_dtype()),
            format: "fp8",
            expected: "BF16, F16 or F32",
        });
    }
    let scales = stored.widen(0..shapes[index].iter().product())?;
    match scales.iter().all(|scale| is_scale(*scale)) {
        true => Ok((sizes[index], scales)),
        false => Err(WeightsError::NotFinite(name.clone())),
    }
}
