//! Memory of this machine, as far as this process may have it.

mod cgroup;

/// Bytes that can be allocated without swapping; none if unknown.
pub(crate) fn available_memory() -> Option<u64> {
    Memory::now().available()
}

/// Bytes that can be allocated including swap; none if unknown.
pub(crate) fn spare_memory() -> Option<u64> {
    Memory::now().spare()
}

/// What the system says; none of what it does not tell.
struct Memory {
    /// Of the machine, without swapping.
    available: Option<u64>,
    swap: u64,
    /// Of the process' control groups.
    of_group: Option<u64>,
}

impl Memory {
    fn now() -> Self {
        let machine = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            available: memory_line(&machine, "MemAvailable:"),
            swap: memory_line(&machine, "SwapFree:").unwrap_or(0),
            of_group: cgroup::free(),
        }
    }

    fn available(&self) -> Option<u64> {
        let both = [self.available, self.of_group];
        both.into_iter().flatten().min()
    }

    fn spare(&self) -> Option<u64> {
        Some(self.available()?.saturating_add(self.swap))
    }
}

fn memory_line(memory: &str, name: &str) -> Option<u64> {
    let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_and_the_group_bound_it() {
        let of = |available, swap, of_group| {
            let memory = Memory {
                available,
                swap,
                of_group,
            };
            (memory.available(), memory.spare())
        };
        assert_eq!(of(Some(9), 4, None), (Some(9), Some(13)));
        assert_eq!(of(Some(9), 4, Some(3)), (Some(3), Some(7)));
        assert_eq!(of(None, 4, Some(3)), (Some(3), Some(7)));
        assert_eq!(of(None, 4, None), (None, None));
        assert_eq!(
            memory_line("MemTotal: 9 kB\nMemAvailable:  2 kB\n", "MemAvailable:"),
            Some(2048)
        );
        assert_eq!(memory_line("MemAvailable: lots", "MemAvailable:"), None);
    }
}
