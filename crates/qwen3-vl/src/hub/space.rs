//! Checks the free space of the disk.

use std::path::Path;

use super::error::HubError;

/// Checks that `needed` bytes are free on the cache's disk. If the system does not tell, they are.
///
/// # Errors
///
/// [`HubError::Full`].
pub(super) fn ensure(cache: &Path, needed: u64) -> Result<(), HubError> {
    match free(cache) {
        Some(free) if free < needed => Err(HubError::Full { needed, free }),
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn free(cache: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(cache).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_disk_holds_everything() {
        let here = Path::new(".");
        assert!(ensure(here, 0).is_ok());
        let full = ensure(here, u64::MAX);
        assert!(matches!(full, Err(HubError::Full { needed: u64::MAX, free }) if free > 0));
        assert!(ensure(Path::new("no such folder"), u64::MAX).is_ok());
    }
}
