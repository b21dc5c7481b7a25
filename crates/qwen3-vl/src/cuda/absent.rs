//! Stands in for the module `cuda` in a build without that feature.

use std::sync::Arc;

use candle_core::{Device, Result};

use crate::model::platform::Platform;
use crate::model::{TextModel, VisionTower};

/// Always an error: this build supports no CUDA device.
///
/// # Errors
///
/// Always.
pub fn open(ordinal: usize) -> Result<Device> {
    Device::new_cuda(ordinal)
}

/// Bytes that are free on a device: unknown without CUDA.
pub fn free_memory(_: &Device) -> Option<u64> {
    None
}

/// None: no model runs on a CUDA device.
pub fn platform(_: &TextModel, _: &VisionTower) -> Option<Arc<dyn Platform>> {
    None
}
