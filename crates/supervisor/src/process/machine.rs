//! CPUs and memory that this process and its workers may use, within the limits of control groups. Read at start.

use std::{fs, time::Duration};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use onnxd_proto::exit::Failure;

use super::control_groups;

/// Memory of a check by default.
const CHECK_MEMORY_BYTES: u64 = 4096 << 20;
const CHECK_MEMORY_BYTES_MIN: u64 = 256 << 20;
/// Memory of large bodies by default.
const BODY_MEMORY_BYTES: u64 = 512 << 20;

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

/// Returns the memory that a check may use: as configured, or else 4 GiB, but no more than three quarters of the
/// machine or group. Less than 256 MiB is not enough for any check.
pub(crate) fn check_memory_bytes(configured: Option<u64>) -> u64 {
    configured.unwrap_or_else(|| share(CHECK_MEMORY_BYTES, (3, 4)).max(CHECK_MEMORY_BYTES_MIN))
}

/// Returns the memory that large bodies may use together: as configured, or else 512 MiB, but no more than an eighth
/// of the machine or group. Bodies exist up to three times: as received, as parsed, and on the way to a worker.
pub(crate) fn body_memory_bytes(configured: Option<u64>) -> usize {
    let bytes = configured.unwrap_or_else(|| share(BODY_MEMORY_BYTES, (1, 8)));
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Returns `most`, or a part of the memory if that is less.
fn share(most: u64, (part, of): (u64, u64)) -> u64 {
    memory_bytes().map_or(most, |bytes| most.min(bytes / of * part))
}

/// Returns the memory limit of this process's control group, if it has one.
pub(crate) fn group_memory_bytes() -> Option<u64> {
    group_memory().map(|limit| limit.amount)
}

/// Without a limit, version 1 reports one above the memory of any machine.
fn group_memory() -> Option<control_groups::Limit> {
    control_groups::memory_bytes().filter(|limit| memory_bytes() == Some(limit.amount))
}

/// Returns lines about the limits of control groups, for the log.
pub(crate) fn limits() -> Vec<String> {
    let memory = group_memory()
        .map(|limit| format!("{} MiB of memory ({})", limit.amount >> 20, limit.file.display()));
    let cpu = control_groups::cpu_millis().map(|limit| {
        let cpus = Duration::from_millis(limit.amount).as_secs_f64();
        format!("{cpus} CPUs ({})", limit.file.display())
    });
    memory.into_iter().chain(cpu).collect()
}

/// Returns the number of workers to start by default: one for each usable CPU, and no more than the CPU quota feeds.
///
/// # Errors
/// The kernel does not report the CPUs.
pub(crate) fn default_workers() -> Result<usize, Failure> {
    let cpus = usable_cpus()?.len();
    let quota = control_groups::cpu_millis()
        .and_then(|limit| usize::try_from(limit.amount.div_ceil(1000)).ok());
    Ok(quota.map_or(cpus, |quota| quota.clamp(1, cpus)))
}

/// Returns the bytes that all processes of this server may use together, or `None` if unknown.
pub(crate) fn memory_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let group = control_groups::memory_bytes().map(|limit| limit.amount);
    machine.into_iter().chain(group).min()
}

/// Parses the line `MemTotal:  24682224 kB` of proc_meminfo(5). Returns bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
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
}
