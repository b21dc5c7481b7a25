//! What stands for the CUDA side in a build without it: no device, nothing to keep.

use std::sync::Arc;

use candle_core::{Device, Result};

use crate::model::platform::Platform;
use crate::model::{TextModel, VisionTower};

/// An error that says that there is no such device in this build.
///
/// # Errors
///
/// Always.
pub fn open(ordinal: usize) -> Result<Device> {
    Device::new_cuda(ordinal)
}

/// Bytes that are free on a device: nobody knows.
pub fn free_memory(_: &Device) -> Option<u64> {
    None
}

/// None: no model is on such a device.
pub fn platform(_: &TextModel, _: &VisionTower) -> Option<Arc<dyn Platform>> {
    None
}
