//! The device that a model is loaded for, and the memory that it has.

use candle_core::{DType, Device, DeviceLocation};

use super::{DeviceChoice, DtypeChoice, LoadError, LoadOptions};
use crate::model::Target;

/// Where the vision tower goes.
pub(super) fn eyes(device: &Device) -> Result<Device, LoadError> {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => DeviceChoice::Cuda(gpu_id).open(),
        _ => Ok(device.clone()),
    }
}

pub(super) fn target(options: &LoadOptions) -> Result<Target, LoadError> {
    let device = options.device.open()?;
    let store = match options.dtype {
        DtypeChoice::Auto => None,
        DtypeChoice::Bf16 => Some(DType::BF16),
        DtypeChoice::F16 => Some(DType::F16),
        DtypeChoice::F32 => Some(DType::F32),
    };
    Ok(match device {
        Device::Cpu => Target {
            device,
            compute: DType::F32,
            store,
            quantization: options.quantization,
        },
        _ => {
            let compute = store.unwrap_or(DType::BF16);
            Target {
                device,
                compute,
                store: Some(compute),
                quantization: options.quantization,
            }
        }
    })
}

/// Bytes that are free where the cache will be; none if nobody says.
pub(crate) fn free_memory(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => free_system_memory(),
        other => crate::cuda::free_memory(other),
    }
}

fn free_system_memory() -> Option<u64> {
    memory_line(&memory()?, "MemAvailable:")
}

/// Bytes that can still be taken on this machine, swap included; none if nobody says.
pub(crate) fn spare_memory() -> Option<u64> {
    let memory = memory()?;
    let swap = memory_line(&memory, "SwapFree:").unwrap_or(0);
    Some(memory_line(&memory, "MemAvailable:")?.saturating_add(swap))
}

fn memory() -> Option<String> {
    std::fs::read_to_string("/proc/meminfo").ok()
}

fn memory_line(memory: &str, name: &str) -> Option<u64> {
    let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
