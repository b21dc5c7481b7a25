//! Opening a device.

use candle_core::{CudaDevice, Device, Result};

/// The device of that number, with a stream of its own.
///
/// candle's default is a stream for each thread: what one thread loads would race with what another runs.
/// And it tracks every use of memory with events, to make streams wait for each other; with one stream
/// there is nothing to wait for, and a step that waits for events cannot be recorded as a graph.
///
/// # Errors
///
/// If there is no such device or no driver.
pub fn open(ordinal: usize) -> Result<Device> {
    let device = CudaDevice::new_with_stream(ordinal)?;
    // SAFETY: every tensor of the device is made, used and freed in the order of its one stream. Who uses
    // one on another stream orders that by hand (`handover`).
    unsafe { device.disable_event_tracking() };
    Ok(Device::Cuda(device))
}
