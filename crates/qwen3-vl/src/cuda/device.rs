//! Opening a device, and its memory.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool};
use candle_core::{CudaDevice, Device, Result};

/// The device of that number, with a stream of its own and the kernels loaded: a kernel that is
/// loaded in a later step delays that, and cannot be loaded while a step is recorded.
///
/// candle's default is a stream for each thread: what one thread loads would race with what another
/// runs. And it tracks every use of memory with events, to make streams wait for each other; with
/// one stream there is nothing to wait for, and a step that waits for events cannot be recorded as
/// a graph.
///
/// # Errors
///
/// If there is no such device or no driver.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: every tensor of the device is made, used and freed in the order of its one stream.
    // Who uses one on another stream orders that by hand (`handover`).
    unsafe { device.disable_event_tracking() };
    if let Some(pool) = pool(&device)? {
        for (attribute, value) in [
            // The driver would give memory that is free at the moment back to the system whenever
            // somebody waits for the device, which is behind every token.
            (
                CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                u64::MAX,
            ),
            // And it would rather let one stream wait for what another frees later than take more
            // memory.
            (
                CUmemPool_attribute::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES,
                0,
            ),
        ] {
            let mut value = value;
            // SAFETY: the values are of 64 bits and of 32, of which these are little-endian.
            unsafe { mem_pool::set_attribute(pool, attribute, (&raw mut value).cast()) }.w()?;
        }
    }
    super::functions::load(device.cuda_stream().context())?;
    Ok(Device::Cuda(device))
}

/// Bytes that are free once the device has done what it was told.
///
/// # Errors
///
/// If the device fails.
pub fn free_memory(device: &CudaDevice) -> Result<usize> {
    let stream = device.cuda_stream();
    stream.synchronize().w()?;
    if let Some(pool) = pool(device)? {
        // SAFETY: it is the device's, which gives back only what nobody has.
        unsafe { mem_pool::trim_to(pool, 0) }.w()?;
    }
    Ok(stream.context().mem_get_info().w()?.0)
}

/// Where the device's memory comes from, if not from the system each time.
fn pool(on: &CudaDevice) -> Result<Option<CUmemoryPool>> {
    let stream = on.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    // SAFETY: it is a device that has been opened.
    unsafe { device::get_default_mem_pool(context.cu_device()) }
        .w()
        .map(Some)
}
