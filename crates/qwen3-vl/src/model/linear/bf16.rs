//! Matrices that are kept and multiplied in bf16.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::product::{CpuMatrix, product, product_into};
use crate::cpu::bf16::{Bf16Isa, Bf16Matrix, Bf16Panels};
use crate::weights::{Weights, WeightsError};

/// A weight `[out, in]` in bf16, multiplied with activations in bf16.
#[derive(Clone, Debug)]
pub struct Bf16Weight(Arc<Bf16Matrix>);

impl CpuMatrix for Bf16Matrix {
    const NAME: &'static str = "bf16-matmul-t";

    fn dims(&self) -> (usize, usize) {
        Bf16Panels::dims(self)
    }

    fn matmul_t_into(&self, x: &[f32], m: usize, out: &mut [f32]) {
        self.matmul_t_into(x, m, out);
    }
}

impl Bf16Weight {
    /// Loads the tensor `name` and rounds it to bf16, unless it is. The axes of `shape` behind the
    /// first are inputs.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(crate) fn load(
        weights: &Weights,
        name: &str,
        shape: &[usize],
        isa: Bf16Isa,
    ) -> std::result::Result<Self, WeightsError> {
        let rows = shape.first().copied().unwrap_or(1);
        let columns = shape.iter().skip(1).product();
        let stored = weights.stored(name, shape, Bf16Matrix::size(rows, columns))?;
        let widened = |range: std::ops::Range<usize>| {
            stored.widen(range.start * columns..range.end * columns)
        };
        let matrix = Bf16Matrix::round(isa, (rows, columns), widened)?;
        Ok(Self(Arc::new(matrix)))
    }

    /// The matrix.
    pub(crate) fn matrix(&self) -> &Bf16Matrix {
        &self.0
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
}
