//! CPUs and memory that this process and its workers may use, within the limits of control groups. Read at start.

use std::{fs, path::Path};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use onnxd_proto::exit::Failure;

/// Controller, mount point and limit file of control groups, version 2 and version 1.
const GROUPS: [(&str, &str, &str); 2] = [
    ("", "/sys/fs/cgroup", "memory.max"),
    ("memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
];

/// Returns the CPUs that this process may use; at least one.
///
/// # Errors
/// The kernel does not report them.
pub(crate) fn usable_cpus() -> Result<Vec<u16>, Failure> {
    let set = sched_getaffinity(Pid::from_raw(0))
        .map_err(|error| Failure::internal(format!("cannot read the CPU affinity: {error}")))?;
    let usable = |&cpu: &usize| set.is_set(cpu).unwrap_or(false);
    let cpus = (0..CpuSet::count()).filter(usable).filter_map(|cpu| u16::try_from(cpu).ok());
    let cpus: Vec<u16> = cpus.collect();
    if cpus.is_empty() {
        Err(Failure::internal("the CPU affinity of this process is empty"))
    } else {
        Ok(cpus)
    }
}

/// Returns the bytes that each of `workers` may use for its longest text, or `None` if the machine's memory is
/// unknown. Workers keep that memory. The first may keep it twice, since it also runs idle boosts. A quarter of the
/// machine is left for everything else.
pub(crate) fn worker_share(workers: usize) -> Option<u64> {
    let shares = if workers > 1 { workers as u64 + 1 } else { 1 };
    Some(memory_bytes()? / 4 * 3 / shares)
}

/// Returns the bytes that all processes of this server may use together, or `None` if unknown.
fn memory_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.into_iter().chain(limits(&groups)).min()
}

/// Parses the line `MemTotal:  24682224 kB` of proc_meminfo(5). Returns bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Returns the limits of this process's groups and their ancestors. In a container, the path may be
/// the host's. Then only the root of the mount can be read.
fn limits(groups: &str) -> Vec<u64> {
    let read = |(controller, path): (&str, &str)| {
        let (_, mount, file) = GROUPS.into_iter().find(|(name, ..)| *name == controller)?;
        let path = Path::new(path.strip_prefix('/')?);
        let limit = |folder: &Path| {
            let text = fs::read_to_string(Path::new(mount).join(folder).join(file)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        path.ancestors().filter_map(limit).min()
    };
    groups.lines().filter_map(group).filter_map(read).collect()
}

/// Parses the controller and path from a line of cgroups(7): `4:memory:/a/b`, or `0::/a/b` for version 2.
fn group(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let controller = controllers.split(',').find(|name| *name == "memory").unwrap_or(controllers);
    (!path.contains("..")).then_some((controller, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_memory_is_read_in_bytes() {
        assert!(memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(total("MemFree: 1 kB\nMemTotal:    12 kB\n"), Some(12 * 1024));
        assert_eq!(total("MemTotal: twelve kB"), None);
    }

    #[test]
    fn groups_are_found_by_controller() {
        assert_eq!(group("0::/user.slice/a.scope"), Some(("", "/user.slice/a.scope")));
        assert_eq!(group("4:memory:/a"), Some(("memory", "/a")));
        assert_eq!(group("4:cpu,memory:/a:b"), Some(("memory", "/a:b")));
        assert_eq!(group("0::/../../x"), None);
        assert_eq!(group("nonsense"), None);
        // An unlimited group contains `max` or a number larger than any machine.
        assert!(limits("0::/no/such/group\n7:pids:/\n").iter().all(|&bytes| bytes > 0));
    }
}
