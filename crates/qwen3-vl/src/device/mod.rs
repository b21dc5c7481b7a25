//! Chooses the device of a model and its types.

use std::str::FromStr;
use std::sync::LazyLock;

use candle_core::{Device, DeviceLocation};

use qwen3_vl_core::load::LoadError;

pub use crate::choice::UnknownChoice;
use crate::cuda;
use crate::memory::available_memory;
use crate::quote::brief;

/// The device that computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceChoice {
    /// The first CUDA device if this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by number.
    Cuda(usize),
}

/// The type of weights and, on a GPU, of arithmetic. The CPU always computes in f32. With a
/// [`QuantizeAtLoad`](crate::weights::QuantizeAtLoad) this is the type of the weights that are not
/// quantized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DtypeChoice {
    /// CPU: as stored in the checkpoint (exact). CUDA: bf16.
    #[default]
    Auto,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// Single precision.
    F32,
}

impl FromStr for DeviceChoice {
    type Err = UnknownChoice;

    /// Parses `auto`, `cpu`, `cuda` (the first) or `cuda:N`.
    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        let device = match name {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => name
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda),
        };
        device.ok_or_else(|| UnknownChoice {
            what: "device",
            name: name.into(),
            choices: "auto, cpu, cuda or cuda:N",
        })
    }
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    ///
    /// [`LoadError::Unavailable`] if this build or machine does not have it.
    pub fn open(self) -> Result<Device, LoadError> {
        Ok(match self {
            Self::Cpu => Device::Cpu,
            // This is an error without a driver or in a build without CUDA.
            Self::Auto => cuda::open(0).unwrap_or(Device::Cpu),
            Self::Cuda(n) => cuda::open(n).map_err(|e| {
                LoadError::Unavailable(format!(
                    "device cuda:{n} cannot be used ({}): use device=cpu, or a build with the cuda \
                     feature on a machine with an NVIDIA driver",
                    brief(&e)
                ))
            })?,
        })
    }

    /// Another stream of the same device, so that the vision tower runs concurrently with the
    /// language model; the same device if it has no streams.
    ///
    /// # Errors
    ///
    /// [`LoadError::Unavailable`] if the device fails.
    pub(crate) fn beside(device: &Device) -> Result<Device, LoadError> {
        match device.location() {
            DeviceLocation::Cuda { gpu_id } => Self::Cuda(gpu_id).open(),
            _ => Ok(device.clone()),
        }
    }

    /// Resolves `Auto` on this machine.
    #[must_use]
    pub fn resolved(self) -> Self {
        static GPU: LazyLock<bool> = LazyLock::new(|| cuda::open(0).is_ok());
        match self {
            Self::Auto if *GPU => Self::Cuda(0),
            Self::Auto => Self::Cpu,
            chosen => chosen,
        }
    }
}

impl FromStr for DtypeChoice {
    type Err = UnknownChoice;

    /// Parses `auto`, `bf16`, `f16` or `f32`.
    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        match name {
            "auto" => Ok(Self::Auto),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            "f32" => Ok(Self::F32),
            _ => Err(UnknownChoice {
                what: "dtype",
                name: name.into(),
                choices: "auto, bf16, f16 or f32",
            }),
        }
    }
}

impl DtypeChoice {
    /// Resolves `Auto` for a device, unless the checkpoint decides.
    #[must_use]
    pub fn on(self, device: DeviceChoice) -> Self {
        match (self, device) {
            (Self::Auto, DeviceChoice::Cuda(_)) => Self::Bf16,
            (dtype, _) => dtype,
        }
    }
}

/// Free bytes of the device's memory; none if unknown.
pub(crate) fn free_memory(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => available_memory(),
        other => cuda::free_memory(other),
    }
}
