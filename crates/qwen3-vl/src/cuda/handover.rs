//! From the stream of the vision tower to that of the language model.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::result::{
    malloc_async, malloc_sync, memcpy_dtod_async,
};
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Result, Storage, Tensor, bail};
use half::{bf16, f16};

use super::launch::{address, device};
use crate::model::VisionTokens;

/// Vision tokens that are being made on one stream, for another of the same GPU. The copies are
/// made on the first stream, behind the tokens: there they wait for no prefill, and what is encoded
/// next does not wait for them.
pub struct Mark {
    event: CudaEvent,
    target: Arc<CudaStream>,
    // After `drop`, which makes the target wait: it gives their memory back.
    copies: VisionTokens,
}

impl Mark {
    /// Copies of tokens for `to`, once they are made on their own device.
    ///
    /// # Errors
    ///
    /// If the devices are none of NVIDIA's or fail.
    pub fn new(tokens: &VisionTokens, to: &Device) -> Result<Self> {
        let to = device(to)?;
        let source = device(tokens.embeddings.device())?.cuda_stream();
        source.context().bind_to_thread().w()?;
        let copy = |from: &Tensor| copy(from, &source, to);
        Ok(Self {
            copies: VisionTokens {
                embeddings: copy(&tokens.embeddings)?,
                deepstack: tokens.deepstack.iter().map(copy).collect::<Result<_>>()?,
            },
            event: source.record_event(None).w()?,
            target: to.cuda_stream(),
        })
    }

    /// Whether the copies are made, or the device has failed.
    pub fn is_reached(&self) -> bool {
        !matches!(self.event.try_is_complete(), Ok(false))
    }

    /// Waits until the copies are made.
    ///
    /// # Errors
    ///
    /// If the device has failed.
    pub fn reach(&self) -> Result<()> {
        self.event.synchronize().w()
    }

    /// The copies. The host does not wait for them, but their stream does.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn hand_over(&self) -> Result<VisionTokens> {
        self.target.wait(&self.event).w()?;
        Ok(self.copies.clone())
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // Copies that nobody took are given back on a stream that has not waited for them. A device
        // that fails here uses the memory no more.
        let _ = self.target.wait(&self.event);
    }
}

fn copy(from: &Tensor, source: &Arc<CudaStream>, to: &CudaDevice) -> Result<Tensor> {
    match from.dtype() {
        DType::F32 => copy_of::<f32>(from, source, to),
        DType::BF16 => copy_of::<bf16>(from, source, to),
        DType::F16 => copy_of::<f16>(from, source, to),
        other => bail!("vision tokens in {other:?}"),
    }
}

fn copy_of<T: CudaDType + DeviceRepr>(
    from: &Tensor,
    source: &Arc<CudaStream>,
    to: &CudaDevice,
) -> Result<Tensor> {
    let count = from.elem_count();
    let bytes = count * from.dtype().size_in_bytes();
    let address = address(from)?;
    let has_pools = source.context().has_async_alloc();
    // SAFETY: the memory is taken in the order of the stream that writes it, and given back in the
    // order of the one that reads it, which waits for the event behind the copy before it does
    // either.
    let slice = unsafe {
        let at = match has_pools {
            true => malloc_async(source.cu_stream(), bytes).w()?,
            false => malloc_sync(bytes).w()?,
        };
        let slice = to.cuda_stream().upgrade_device_ptr::<T>(at, count);
        memcpy_dtod_async(at, address, bytes, source.cu_stream()).w()?;
        slice
    };
    let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, to.clone()));
    Ok(Tensor::from_storage(
        storage,
        from.shape(),
        BackpropOp::none(),
        false,
    ))
}
