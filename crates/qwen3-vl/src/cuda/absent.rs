//! Stands in for the module `cuda` in a build without that feature.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use crate::cpu::stored::StoredMatrix;
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

/// None: no weights are on a CUDA device.
pub fn few_rows(_: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
    Ok(None)
}

/// A matrix on a CUDA device, of which there is none.
#[derive(Clone, Debug)]
pub enum DeviceMatrix {}

/// Experts on a CUDA device, of which there are none.
#[derive(Clone, Debug)]
pub enum Experts {}

impl DeviceMatrix {
    /// Always an error.
    pub fn upload(_: StoredMatrix<'_>, _: &Device) -> Result<Self> {
        candle_core::bail!("not on a CUDA device")
    }

    /// None.
    pub fn dense(_: &Tensor) -> Option<Self> {
        None
    }

    /// None.
    pub fn join(_: &[&Self]) -> Result<Option<Self>> {
        Ok(None)
    }

    /// Never called.
    pub fn narrow(&self, _: usize, _: usize) -> Result<Self> {
        match *self {}
    }

    /// Never called.
    pub fn product(&self, _: &Tensor) -> Result<Tensor> {
        match *self {}
    }

    /// Never called.
    pub fn dims(&self) -> (usize, usize) {
        match *self {}
    }

    /// Never called.
    pub fn bytes(&self) -> usize {
        match *self {}
    }
}

impl Experts {
    /// None.
    pub fn new(_: &Tensor, _: DeviceMatrix, _: DeviceMatrix, _: (usize, usize)) -> Option<Self> {
        None
    }
}
