//! Matrices that a file stores in ggml's blocks.

use candle_core::quantized::GgmlDType;

use super::number::chunks;
use super::{Weights, WeightsError, ensure_memory};
use crate::cpu::blocks::{BlockFormat, BlockMatrix};
use crate::cpu::int8::{self, Int8Matrix};

impl Weights {
    /// Whether a tensor is stored in blocks.
    pub(crate) fn has_blocks(&self, name: &str) -> bool {
        self.block_dtype(name).is_some()
    }

    /// The type of the blocks that a tensor is stored in, if it is.
    pub(crate) fn block_dtype(&self, name: &str) -> Option<GgmlDType> {
        let place = self.locations.get(name)?;
        self.sources[place.source].blocks(&place.name)
    }

    /// A matrix `[rows, columns]` that is stored in blocks, as it is stored.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`]; [`WeightsError::Type`] if it is stored otherwise.
    pub(crate) fn blocks(
        &self,
        name: &str,
        (rows, columns): (usize, usize),
    ) -> Result<BlockMatrix, WeightsError> {
        let shape = [rows, columns];
        let stored = self.find(name, &shape)?;
        let other = || WeightsError::Type {
            name: name.into(),
            dtype: format!("{:?}", stored.stored_dtype()),
        };
        let format = stored
            .blocks()
            .and_then(BlockFormat::of)
            .ok_or_else(other)?;
        let size = stored.size();
        ensure_memory(name, size)?;
        let mut blocks = Vec::new();
        let room = blocks.try_reserve_exact(size);
        room.map_err(|_| WeightsError::Memory(name.into()))?;
        let all = 0..size / format.bytes();
        chunks(&*stored, all, format.bytes(), |piece| {
            blocks.extend_from_slice(piece);
            format.is_finite(piece)
        })?;
        BlockMatrix::new(format, (rows, columns), blocks).ok_or_else(other)
    }

    /// The same for products of integers; none for types that have no such products.
    ///
    /// # Errors
    ///
    /// See [`Weights::blocks`].
    pub(crate) fn integers(
        &self,
        name: &str,
        (rows, columns): (usize, usize),
    ) -> Result<Option<(Int8Matrix, GgmlDType)>, WeightsError> {
        let shape = [rows, columns];
        let stored = self.find(name, &shape)?;
        let known = stored.blocks().filter(|dtype| int8::is_known(*dtype));
        let Some((dtype, format)) = known.and_then(|dtype| Some((dtype, BlockFormat::of(dtype)?)))
        else {
            return Ok(None);
        };
        ensure_memory(name, stored.size())?;
        let of_row = columns / format.weights() * format.bytes();
        let matrix = Int8Matrix::of_blocks(dtype, (rows, columns), |rows| {
            let mut blocks = vec![0; rows.len() * of_row];
            stored.read(rows.start * of_row, &mut blocks)?;
            match format.is_finite(&blocks) {
                true => Ok(blocks),
                false => Err(WeightsError::NotFinite(name.into())),
            }
        });
        let matrix = matrix?.ok_or_else(|| WeightsError::Memory(name.into()))?;
        Ok(Some((matrix, dtype)))
    }
}
