//! Memory of this machine.

/// Bytes that can be allocated without swapping; none if unknown.
pub(crate) fn available_memory() -> Option<u64> {
    memory_line(&memory()?, "MemAvailable:")
}

/// Bytes that can be allocated including swap; none if unknown.
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
