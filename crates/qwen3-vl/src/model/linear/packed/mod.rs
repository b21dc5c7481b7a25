//! Matrices of integers in groups: AWQ, GPTQ and compressed-tensors, which differ on disk only.

mod layout;
mod load;
mod words;

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::product::{CpuMatrix, product, product_into};
use crate::cpu::packed::{PackedInt8, PackedMatrix};
use crate::cpu::stored::StoredMatrix;
use crate::weights::{Weights, WeightsError};
use layout::Format;

/// A weight `[out, in]` of integers.
#[derive(Clone, Debug)]
pub struct PackedWeight {
    format: Format,
    matrix: Arc<Matrix>,
}

/// The integers, by how they are multiplied.
#[derive(Debug)]
enum Matrix {
    /// In f32.
    Exact(PackedMatrix),
    /// As integers, with rows of x in 8 bits.
    Fast(PackedInt8),
}

/// The tensor by which a layer of integers is known: of AWQ and GPTQ, of compressed-tensors.
const TENSORS: [&str; 2] = ["qweight", "weight_packed"];

/// Which of these tensors a layer has.
pub(super) fn tensor(weights: &Weights, name: &str) -> Option<&'static str> {
    let has = |tensor: &&str| weights.contains(&format!("{name}.{tensor}"));
    TENSORS.into_iter().find(has)
}

/// Whether a layer consists of integers in groups.
pub(in crate::model) fn is_packed(weights: &Weights, name: &str) -> bool {
    tensor(weights, name).is_some()
}

impl CpuMatrix for Matrix {
    const NAME: &'static str = "packed-matmul-t";

    fn dims(&self) -> (usize, usize) {
        match self {
            Self::Exact(matrix) => matrix.dims(),
            Self::Fast(matrix) => matrix.dims(),
        }
    }

    fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        match self {
            Self::Exact(matrix) => matrix.matmul_t_into(x, m, out),
            Self::Fast(matrix) => matrix.matmul_t_into(x, m, out),
        }
    }
}

impl PackedWeight {
    /// Loads the layer `name`, which has this [`tensor`], for products of integers if `int8`.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        tensor: &str,
        shape: (usize, usize),
        int8: bool,
    ) -> std::result::Result<Self, WeightsError> {
        let (format, matrix) = load::load(weights, name, tensor, shape, int8)?;
        let matrix = Arc::new(matrix);
        Ok(Self { format, matrix })
    }

    /// `x Wᵀ` for `x` `[rows, in]` in f32.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit.
    pub(super) fn product(&self, x: &Tensor) -> Result<Tensor> {
        product(&*self.matrix, x)
    }

    /// The same into `out`.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit.
    pub(super) fn product_into(&self, x: &Tensor, out: &Tensor) -> Result<()> {
        product_into(&*self.matrix, x, out)
    }

    /// It as a GPU reads it; none if it was loaded for products of integers on the CPU.
    pub(super) fn stored(&self) -> Option<StoredMatrix<'_>> {
        match &*self.matrix {
            Matrix::Exact(matrix) => Some(matrix.stored()),
            Matrix::Fast(_) => None,
        }
    }

    /// Rows of the matrix.
    pub(super) fn outputs(&self) -> usize {
        self.matrix.dims().0
    }

    /// Memory that the weights take.
    pub fn bytes(&self) -> usize {
        match &*self.matrix {
            Matrix::Exact(matrix) => matrix.bytes(),
            Matrix::Fast(matrix) => matrix.bytes(),
        }
    }

    /// What users are told, for instance `awq 4-bit`.
    pub(super) fn label(&self) -> String {
        let bits = match &*self.matrix {
            Matrix::Exact(matrix) => matrix.bits(),
            Matrix::Fast(matrix) => matrix.bits(),
        };
        format!("{} {bits}-bit", self.format.name())
    }
}
