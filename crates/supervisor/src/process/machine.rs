//! What the machine has for this process and its workers: CPUs, and memory, or less where a control
//! group limits it. Read once at start.

use std::{fs, path::Path};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use onnxd_proto::exit::Failure;

/// Where control groups are mounted: of version 2, and of the first version for memory.
const GROUPS: [(&str, &str, &str); 2] = [
    ("", "/sys/fs/cgroup", "memory.max"),
    ("memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
];

/// Returns the CPUs that this process may use; at least one.
///
/// # Errors
/// The kernel does not say.
pub(crate) fn usable_cpus() -> Result<Vec<u16>, Failure> {
    let set = sched_getaffinity(Pid::from_raw(0))
        .map_err(|error| Failure::internal(format!("the CPUs of this process: {error}")))?;
    let usable = |&cpu: &usize| set.is_set(cpu).unwrap_or(false);
    let cpus = (0..CpuSet::count()).filter(usable).filter_map(|cpu| u16::try_from(cpu).ok());
    let cpus: Vec<u16> = cpus.collect();
    if cpus.is_empty() { Err(Failure::internal("this process may use no CPU")) } else { Ok(cpus) }
}

/// Returns the memory that one of `workers` has for a text, `None` where nothing says it: each may keep
/// what its longest text took, and the first keeps it twice, since it also runs texts with the help of
/// others. A quarter is for everything else.
pub(crate) fn worker_share(workers: usize) -> Option<u64> {
    let kept = if workers > 1 { workers as u64 + 1 } else { 1 };
    Some(memory_bytes()? / 4 * 3 / kept)
}

/// Returns the memory that all processes of this server have together; `None` where nothing says it.
fn memory_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.into_iter().chain(limits(&groups)).min()
}

/// The line `MemTotal:  24682224 kB` of proc_meminfo(5).
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The limits of this process's groups and of those above. In a container, the path may be one of
/// the host; then only the root of what is mounted can be read.
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

/// Controller and path of a line `4:memory:/a/b` of cgroups(7); version 2 has `0::/a/b`.
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
    fn machine_has_some_memory() {
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
        // An unlimited group says `max` or a number larger than any machine.
        assert!(limits("0::/no/such/group\n7:pids:/\n").iter().all(|&bytes| bytes > 0));
    }
}
