//! Memory that is free.

use candle_core::Device;

/// Bytes that are free where the cache will be; none if nobody says.
pub(crate) fn free_memory(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => free_system_memory(),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => u64::try_from(crate::cuda::device::free_memory(device).ok()?).ok(),
        _ => None,
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
