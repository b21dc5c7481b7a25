//! From the stream of the vision tower to that of the language model.

use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result::memcpy_dtod_async;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream};
use candle_core::{Device, Result, Tensor};

use super::launch::{address, device, unwritten};
use crate::model::VisionTokens;

/// A moment in the work of a device.
pub struct Mark {
    event: CudaEvent,
    stream: Arc<CudaStream>,
}

impl Mark {
    /// Now: what the device has been told to do until here.
    ///
    /// # Errors
    ///
    /// If it is none of NVIDIA's or fails.
    pub fn new(on: &Device) -> Result<Self> {
        let stream = device(on)?.cuda_stream();
        let event = stream.record_event(None).w()?;
        Ok(Self { event, stream })
    }

    /// Whether the device has come that far, or failed.
    pub fn is_reached(&self) -> bool {
        !matches!(self.event.try_is_complete(), Ok(false))
    }

    /// Waits until the device has come that far.
    ///
    /// # Errors
    ///
    /// If it has failed.
    pub fn reach(&self) -> Result<()> {
        self.event.synchronize().w()
    }

    /// Copies of tokens that are there at that moment, for another device that is the same GPU. Nobody waits
    /// but the streams for each other.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn hand_over(&self, tokens: &VisionTokens, to: &Device) -> Result<VisionTokens> {
        let target = device(to)?.cuda_stream();
        target.wait(&self.event).w()?;
        let copy = |from: &Tensor| self.copy(from, to);
        let copied = VisionTokens {
            embeddings: copy(&tokens.embeddings)?,
            deepstack: tokens.deepstack.iter().map(copy).collect::<Result<_>>()?,
        };
        // What is freed on the first stream from here on is freed when the copies are made.
        self.stream.join(&target).w()?;
        Ok(copied)
    }

    fn copy(&self, from: &Tensor, to: &Device) -> Result<Tensor> {
        // SAFETY: the copy below writes all of it.
        let copy = unsafe { unwritten(from.shape(), from.dtype(), device(to)?)? };
        let stream = device(to)?.cuda_stream();
        let bytes = from.elem_count() * from.dtype().size_in_bytes();
        // SAFETY: both have so many bytes; the stream waits for the first, and its own stream for the copy.
        unsafe { memcpy_dtod_async(address(&copy)?, address(from)?, bytes, stream.cu_stream()) }
            .w()?;
        Ok(copy)
    }
}
