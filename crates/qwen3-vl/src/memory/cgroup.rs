//! Memory that the control groups of this process leave it: those of a container, a service or a
//! batch job.

use std::fs;
use std::path::Path;

/// Where the system mounts groups, and what the files of one are called.
struct Layout {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Line of `memory.stat`: cached files that the kernel drops before it refuses memory.
    reclaimable: &'static str,
}

const V2: Layout = Layout {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    reclaimable: "inactive_file",
};

const V1: Layout = Layout {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};

/// Bytes that this process may still allocate; none if it has no limit or the system does not tell.
pub(super) fn free() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let (layout, group) = group(&groups)?;
    layout.free(Path::new(layout.root), group)
}

/// The group whose memory is bounded, of the lines `id:controllers:path`.
fn group(lines: &str) -> Option<(&'static Layout, &str)> {
    let parts = || {
        lines
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
    };
    let v1 = parts().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let v2 = || parts().find(|(controllers, _)| controllers.is_empty());
    let v1 = v1.map(|(_, path)| (&V1, path));
    v1.or_else(|| v2().map(|(_, path)| (&V2, path)))
}

impl Layout {
    /// The least of what the group and those around it leave. Inside a container the path may be
    /// one of the host: the groups that are there count.
    fn free(&self, root: &Path, group: &str) -> Option<u64> {
        let group = root.join(group.trim_start_matches('/'));
        let around = group
            .ancestors()
            .take_while(|folder| folder.starts_with(root));
        around.filter_map(|folder| self.left(folder)).min()
    }

    /// What one group leaves; none without a limit.
    fn left(&self, group: &Path) -> Option<u64> {
        let text = |name: &str| fs::read_to_string(group.join(name)).ok();
        let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
        // `max` is no number.
        let (limit, used) = (number(self.limit)?, number(self.used)?);
        let stat = text("memory.stat").unwrap_or_default();
        let line = stat.lines().filter_map(|line| line.split_once(' '));
        let line = line.filter(|(name, _)| *name == self.reclaimable);
        let reclaimable = line
            .filter_map(|(_, bytes)| bytes.trim().parse().ok())
            .next();
        Some(limit.saturating_sub(used.saturating_sub(reclaimable.unwrap_or(0))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// As `/proc/self/cgroup` is with version 1, version 2 and both.
    #[test]
    fn the_group_of_memory_is_found() {
        let found = |lines| group(lines).map(|(layout, path)| (layout.limit, path));
        let v1 = "5:cpu,cpuacct:/c\n4:blkio,memory:/jobs/1\n0::/";
        assert_eq!(found(v1), Some(("memory.limit_in_bytes", "/jobs/1")));
        assert_eq!(found("0::/a:b\n"), Some(("memory.max", "/a:b")));
        assert_eq!(found("7:memories:/x"), None);
        assert_eq!(found(""), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let group = |path: &str, limit: &str, used: &str, cached: &str| {
            let folder = root.path().join(path);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("memory.max"), format!("{limit}\n")).unwrap();
            fs::write(folder.join("memory.current"), format!("{used}\n")).unwrap();
            let stat = format!("anon 1\ninactive_file {cached}\nfile 9\n");
            fs::write(folder.join("memory.stat"), stat).unwrap();
        };
        let free = |path: &str| V2.free(root.path(), path);
        assert_eq!(free("/a/b"), None);
        group("a/b", "1000", "400", "100");
        assert_eq!(free("/a/b"), Some(700));
        assert_eq!(free("/a/b/of the host"), Some(700));
        group("a", "2000", "1500", "0");
        assert_eq!(free("/a/b"), Some(500));
        group("a", "max", "1500", "0");
        assert_eq!(free("/a/b"), Some(700));
        // More than its limit is used, and more is cached than is used.
        group("a", "100", "1500", "0");
        assert_eq!(free("/a/b"), Some(0));
        group("a", "100", "50", "80");
        assert_eq!(free("/a"), Some(100));
        assert_eq!(free("/"), None);
    }
}
