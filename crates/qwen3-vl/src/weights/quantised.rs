//! What layers that are quantised already ask of the weights.

use candle_core::DType;

use super::{QuantizeAtLoad, StoredTensor, Weights, WeightsError};
use crate::config::Quantization;

impl Weights {
    /// How weights are that are quantised already, if config.json says so.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.quantization.as_ref()
    }

    /// Whether the weights were quantised by the checkpoint or are while they are loaded.
    pub(super) fn is_quantised(&self) -> bool {
        self.quantization.is_some()
            || self.quantize_at_load != QuantizeAtLoad::None
            || self.in_blocks
    }

    /// Says how weights are quantised.
    pub fn set_quantization(&mut self, quantization: Option<Quantization>) {
        self.quantization = quantization;
    }

    /// A tensor that has one of these shapes, and the index of that shape.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`]; of none of these shapes, the first is named.
    pub(crate) fn stored_as<'a>(
        &'a self,
        name: &'a str,
        shapes: &'a [Vec<usize>],
    ) -> Result<(usize, Box<dyn StoredTensor + 'a>), WeightsError> {
        let mut first = None;
        for (index, shape) in shapes.iter().enumerate() {
            match self.find(name, shape) {
                Ok(stored) => return Ok((index, stored)),
                Err(error @ WeightsError::Shape { .. }) => first = first.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(first.unwrap_or_else(|| WeightsError::Missing(name.into())))
    }

    /// The type of a tensor in its file, without reading it.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(crate) fn stored_dtype(&self, name: &str, shape: &[usize]) -> Result<DType, WeightsError> {
        Ok(self.peek(name, shape)?.stored_dtype())
    }

    /// Counts a tensor as read, if it is there, which the model does without.
    pub(crate) fn pass_over(&self, name: &str) {
        if self.contains(name) {
            self.lock_read().insert(name.into());
        }
    }
}
