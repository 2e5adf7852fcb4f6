//! Figures from the kernel about processes. Reads files, so do not call it on the async runtime's
//! threads.

use std::fs;

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

/// Returns the bytes in `field` of `/proc/PID/status` (proc_pid_status(5)), or 0 if the process
/// does not exist.
pub fn memory_bytes(pid: &str, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    parse_bytes(&status, field).unwrap_or(0)
}

fn parse_bytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Returns the number of descriptors that this process has open.
pub fn open_fds() -> u64 {
    let count = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    // One of them belongs to this directory listing.
    u64::try_from(count.saturating_sub(1)).unwrap_or(0)
}

/// Returns the CPU time of this process.
pub fn cpu_seconds() -> f64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0.0 };
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(0)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_field_is_matched_by_its_whole_name() {
        let status = "VmRSSx:\t1 kB\nVmRSS:\t   24 kB\nRssAnon:\t8 kB\nThreads:\t3\n";
        assert_eq!(parse_bytes(status, "VmRSS"), Some(24 * 1024));
        assert_eq!(parse_bytes(status, "RssAnon"), Some(8 * 1024));
        assert_eq!(parse_bytes(status, "Threads"), None);
        assert_eq!(parse_bytes("", "VmRSS"), None);
    }

    #[test]
    fn a_missing_process_has_no_memory() {
        assert!(memory_bytes("self", "VmRSS") > 0 && open_fds() > 0);
        assert_eq!(memory_bytes("0", "VmRSS"), 0);
    }
}
