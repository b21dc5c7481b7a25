//! The embedding table, as numbers or in the blocks of a file.

use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Result, Tensor, bail};

use super::linear::{Bf16Weight, GgmlWeight, Linear};
use crate::cpu::bf16::Bf16Panels;
use crate::cpu::blocks::BlockMatrix;
use crate::cpu::int8::Int8Matrix;
use crate::cpu::widen::WidenRows;
use crate::weights::{Weights, WeightsError};

/// A row `[hidden]` for each token of the vocabulary.
#[derive(Clone, Debug)]
pub enum Embedding {
    /// As one tensor `[vocabulary, hidden]`.
    Table(Tensor),
    /// In blocks, on the CPU: a row is widened when it is looked up. A table of plain numbers would
    /// take more memory than all the layers of a small model in 4 bits.
    Blocks(Arc<BlockMatrix>),
    /// Blocks, taken apart for products of integers, because the head is tied to it; on the CPU.
    Integers(Arc<Int8Matrix>, GgmlDType),
    /// In bf16, in the order of a product, because the head is tied to it; on the CPU.
    Bf16(Bf16Weight),
}

impl Embedding {
    /// Loads the tensor `name` `[vocabulary, hidden]`.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        shape: [usize; 2],
    ) -> std::result::Result<Self, WeightsError> {
        if weights.device().is_cpu() && weights.has_blocks(name) {
            let matrix = weights.blocks(name, shape.into())?;
            return Ok(Self::Blocks(matrix.into()));
        }
        weights.matrix(name, &shape).map(Self::Table)
    }

    /// Likewise, for a head that is [tied](Embedding::head) to it.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn load_tied(
        weights: &Weights,
        name: &str,
        shape: [usize; 2],
    ) -> std::result::Result<Self, WeightsError> {
        match weights.bf16() {
            Some(isa) if !weights.has_blocks(name) => {
                Bf16Weight::load(weights, name, &shape, isa).map(Self::Bf16)
            }
            _ if weights.int8() && weights.has_blocks(name) => {
                match weights.integers(name, shape.into())? {
                    Some((matrix, dtype)) => Ok(Self::Integers(matrix.into(), dtype)),
                    None => Self::load(weights, name, shape),
                }
            }
            _ => Self::load(weights, name, shape),
        }
    }

    /// The output head that is tied to it.
    pub(super) fn head(&self) -> Linear {
        match self {
            Self::Table(table) => Linear::new(table.clone(), None),
            Self::Blocks(matrix) => Linear::of_blocks(GgmlWeight::Stored(Arc::clone(matrix))),
            Self::Integers(matrix, dtype) => {
                Linear::of_blocks(GgmlWeight::Integers(Arc::clone(matrix), *dtype))
            }
            Self::Bf16(weight) => Linear::of_bf16(weight.clone()),
        }
    }

    /// The table as a tensor.
    ///
    /// # Errors
    ///
    /// If it is not one.
    pub fn table(&self) -> Result<&Tensor> {
        match self {
            Self::Table(table) => Ok(table),
            Self::Blocks(_) | Self::Integers(..) | Self::Bf16(_) => {
                bail!("the embedding table is no tensor")
            }
        }
    }

    /// Tokens of the vocabulary.
    ///
    /// # Errors
    ///
    /// If the table is no matrix.
    pub fn rows(&self) -> Result<usize> {
        match self {
            Self::Table(table) => table.dim(0),
            Self::Blocks(matrix) => Ok(matrix.dims().0),
            Self::Integers(matrix, _) => Ok(matrix.dims().0),
            Self::Bf16(weight) => Ok(weight.matrix().dims().0),
        }
    }

    /// Type of the values that rows are looked up in.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Table(table) => table.dtype(),
            Self::Blocks(_) | Self::Integers(..) | Self::Bf16(_) => DType::F32,
        }
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        match self {
            Self::Table(table) => table.device(),
            Self::Blocks(_) | Self::Integers(..) | Self::Bf16(_) => &Device::Cpu,
        }
    }

    /// The rows of these tokens `[ids, hidden]`.
    ///
    /// # Errors
    ///
    /// If a token has none or the device fails.
    pub fn lookup(&self, ids: &[u32]) -> Result<Tensor> {
        match self {
            Self::Table(table) => {
                let ids = Tensor::new(ids, table.device())?;
                table.index_select(&ids, 0)
            }
            Self::Blocks(matrix) => {
                let columns = matrix.dims().1;
                rows(ids, matrix.dims(), |row, out| {
                    matrix.widen(row, 0..columns, out);
                })
            }
            Self::Integers(matrix, _) => {
                rows(ids, matrix.dims(), |row, out| matrix.widen_row(row, out))
            }
            Self::Bf16(weight) => {
                let matrix = weight.matrix();
                rows(ids, matrix.dims(), |row, out| matrix.widen_row(row, out))
            }
        }
    }
}

/// The rows of these tokens, each written by `widen`.
fn rows(
    ids: &[u32],
    (rows, columns): (usize, usize),
    widen: impl Fn(usize, &mut [f32]),
) -> Result<Tensor> {
    let mut values = vec![0.0; ids.len() * columns];
    for (id, out) in ids.iter().zip(values.chunks_exact_mut(columns)) {
        let row = *id as usize;
        if row >= rows {
            bail!("token {id} of a vocabulary of {rows}");
        }
        widen(row, out);
    }
    Tensor::from_vec(values, (ids.len(), columns), &Device::Cpu)
}
