//! Opening a device, and its memory.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool};
use candle_core::{CudaDevice, Device, Result};

/// Opens the device `ordinal` with a stream of its own, and loads the kernels. Loading a kernel
/// later would delay a step, and is impossible while a step is recorded.
///
/// candle's default is a stream per thread: uploads of one thread would race with kernels of
/// another. It also tracks every use of memory with events, to order streams; one stream needs no
/// events, and a step that waits for events cannot be recorded as a graph.
///
/// # Errors
///
/// If there is no such device or no driver.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: every tensor of the device is allocated, used and freed in the order of its one
    // stream. `handover` orders uses on another stream itself.
    unsafe { device.disable_event_tracking() };
    if let Some(pool) = pool(&device)? {
        for (attribute, value) in [
            // By default the driver returns free memory to the system at each synchronization,
            // which follows every token.
            (
                CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                u64::MAX,
            ),
            // By default a stream may wait for memory that another stream frees, instead of taking
            // more.
            (
                CUmemPool_attribute::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES,
                0,
            ),
        ] {
            let mut value = value;
            // SAFETY: the attributes have 64 and 32 bits; the value is little-endian, so its first
            // 32 bits are valid too.
            unsafe { mem_pool::set_attribute(pool, attribute, (&raw mut value).cast()) }.w()?;
        }
    }
    super::functions::load(device.cuda_stream().context())?;
    Ok(Device::Cuda(device))
}

/// Free bytes of the device after its stream has finished.
///
/// # Errors
///
/// If the device fails.
pub fn free_memory(device: &CudaDevice) -> Result<usize> {
    let stream = device.cuda_stream();
    stream.synchronize().w()?;
    if let Some(pool) = pool(device)? {
        // SAFETY: it is the device's pool; trimming returns only unused memory.
        unsafe { mem_pool::trim_to(pool, 0) }.w()?;
    }
    Ok(stream.context().mem_get_info().w()?.0)
}

/// The device's memory pool, if it has one.
fn pool(on: &CudaDevice) -> Result<Option<CUmemoryPool>> {
    let stream = on.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    // SAFETY: the device has been opened.
    unsafe { device::get_default_mem_pool(context.cu_device()) }
        .w()
        .map(Some)
}
