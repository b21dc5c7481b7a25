//! What the headers of the files say, without reading a value.

use candle_core::DType;

use super::{TensorHeader, Weights, WeightsError};

impl Weights {
    /// What a tensor's file says of it, whatever its shape.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Missing`], [`WeightsError::Type`].
    pub(crate) fn header(&self, name: &str) -> Result<TensorHeader, WeightsError> {
        let place = self.locations.get(name);
        let place = place.ok_or_else(|| WeightsError::Missing(name.into()))?;
        self.sources[place.source].header(&place.name)
    }

    /// What the file says of a tensor, which must have that shape.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Missing`], [`WeightsError::Shape`], [`WeightsError::Type`].
    pub(crate) fn header_of(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<TensorHeader, WeightsError> {
        let stored = self.peek(name, shape)?;
        Ok(TensorHeader {
            dtype: stored.stored_dtype(),
            values: shape.iter().fold(1, |n: usize, d| n.saturating_mul(*d)),
            bytes: stored.size(),
        })
    }

    /// The type in which a matrix that is stored as `dtype` is kept.
    pub(crate) fn kept_dtype(&self, stored: DType) -> DType {
        self.store.unwrap_or(match stored {
            DType::F64 => DType::F32,
            other => other,
        })
    }
}
