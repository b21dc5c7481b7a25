//! Matrices that a file stores in ggml's blocks, which stay as they are.

use super::number::chunks;
use super::{Weights, WeightsError, ensure_memory};
use crate::cpu::blocks::{BlockFormat, BlockMatrix};

impl Weights {
    /// Whether a tensor is stored in blocks.
    pub(crate) fn has_blocks(&self, name: &str) -> bool {
        let place = self.locations.get(name);
        place.is_some_and(|place| self.sources[place.source].blocks(&place.name).is_some())
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
}
