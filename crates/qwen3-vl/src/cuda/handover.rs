//! Hands vision tokens from the vision tower's stream to the language model's.

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

/// Copies of vision tokens that one stream computes, for another stream of the same GPU. The first
/// stream makes the copies, behind the tokens: there they wait for no prefill, and the next batch
/// does not wait for the language model.
pub struct Mark {
    event: CudaEvent,
    target: Arc<CudaStream>,
    // Freed on the target stream, after `drop` has made that stream wait.
    copies: VisionTokens,
}

impl Mark {
    /// Starts to copy tokens to `to`, once their own stream has computed them.
    ///
    /// # Errors
    ///
    /// If a device is not a CUDA device or fails.
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

    /// Whether the copies are ready, or the device has failed.
    pub fn is_reached(&self) -> bool {
        !matches!(self.event.try_is_complete(), Ok(false))
    }

    /// Waits until the copies are ready.
    ///
    /// # Errors
    ///
    /// If the device has failed.
    pub fn reach(&self) -> Result<()> {
        self.event.synchronize().w()
    }

    /// The copies. The target stream waits for them, the host does not.
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
        // Copies that were not handed over are freed on the target stream, which has not waited for
        // them yet. If this fails, the device no longer uses the memory.
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
    // SAFETY: the memory is allocated in the order of the stream that writes it, and freed in the
    // order of the stream that reads it, which waits for the event behind the copy before it reads
    // or frees it.
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
