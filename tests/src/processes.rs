//! Reads `/proc`: processes, their memory and CPU time, and machine totals.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use nix::{sys::signal, unistd::Pid};
use serde::Serialize;

pub use nix::sys::signal::Signal;

/// `USER_HZ`, the unit of CPU time in `/proc`: 100 on every Linux, independent of the kernel's tick
/// rate.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process, distinguished by its start time from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// The pid.
    pub pid: i32,
    started: u64,
}

impl Process {
    /// Returns the process that currently has this pid.
    pub fn find(pid: i32) -> Option<Self> {
        Some(Self { pid, started: Stat::read(pid)?.started })
    }

    /// Returns the start time, in ticks since boot.
    pub fn started(self) -> u64 {
        self.started
    }

    /// Returns whether it is still running. Zombies are not.
    pub fn runs(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != 'Z')
    }

    /// Sends a signal if the process is still running.
    pub fn signal(self, signal: Signal) {
        if self.runs() {
            // Ignore the error: the process may have exited, which is what most signals are for.
            let _ = signal::kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// Sends a signal to the process that currently has this pid.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(process) = Process::find(pid) {
        process.signal(signal);
    }
}

/// Fields of proc_pid_stat(5).
struct Stat {
    state: char,
    parent: i32,
    /// CPU time of the process, in user and kernel mode.
    cpu_ticks: u64,
    /// CPU time of its waited-for children.
    children_ticks: u64,
    nice: i32,
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may contain anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            cpu_ticks: number(11)? + number(12)?,
            children_ticks: number(13)? + number(14)?,
            nice: fields.get(16)?.parse().ok()?,
            started: number(19)?,
        })
    }
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Returns all running descendants of a process.
pub fn descendants(pid: i32) -> BTreeSet<Process> {
    let parents: Vec<(i32, i32)> =
        pids().into_iter().filter_map(|pid| Some((pid, Stat::read(pid)?.parent))).collect();
    let mut found = BTreeSet::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        for &(child, _) in parents.iter().filter(|(_, of)| *of == parent) {
            found.extend(Process::find(child).filter(|child| child.runs()));
            open.push(child);
        }
    }
    found
}

/// Returns the CPU time of a process, in ticks of 10 ms.
///
/// # Panics
/// Panics if the process does not exist.
pub fn cpu_ticks(pid: i32) -> u64 {
    Stat::read(pid).unwrap().cpu_ticks
}

/// Returns the CPU seconds of a process and of its waited-for children; zeros if it does not exist.
pub fn cpu_seconds(pid: i32) -> (f64, f64) {
    let seconds = |ticks: u64| to_f64(ticks) / TICKS_PER_SECOND;
    Stat::read(pid)
        .map_or((0.0, 0.0), |stat| (seconds(stat.cpu_ticks), seconds(stat.children_ticks)))
}

/// Returns the busy and stolen seconds of all CPUs; see proc_stat(5).
pub fn machine_seconds() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    match ticks[..] {
        [user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] => {
            let busy = user + nice + system + irq + softirq;
            (to_f64(busy) / TICKS_PER_SECOND, to_f64(stolen) / TICKS_PER_SECOND)
        }
        _ => (0.0, 0.0),
    }
}

#[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^52")]
fn to_f64(ticks: u64) -> f64 {
    ticks as f64
}

/// Returns the nice value of a process.
///
/// # Panics
/// Panics if the process does not exist.
pub fn nice(pid: i32) -> i32 {
    Stat::read(pid).unwrap().nice
}

/// Describes the kernel, CPU and load of this machine.
pub fn machine() -> Vec<(&'static str, String)> {
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let processors = line("/proc/cpuinfo");
    let field = |name: &str| {
        let found = processors.lines().find(|line| line.starts_with(name));
        found.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let model = field("model name").or_else(|| field("CPU part")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, Into::into);
    vec![
        ("kernel", line("/proc/sys/kernel/osrelease")),
        ("CPU", format!("{model}, {cores} cores")),
        ("load", line("/proc/loadavg")),
    ]
}

/// Returns the zombie children of a process.
pub fn zombies(pid: i32) -> Vec<i32> {
    let is_zombie = |child: &i32| {
        Stat::read(*child).is_some_and(|stat| stat.parent == pid && stat.state == 'Z')
    };
    pids().into_iter().filter(is_zombie).collect()
}

/// Returns a field of proc_pid_status(5), such as `TracerPid`. `task` is a pid or `PID/task/TID`.
pub fn status(task: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{task}/status")).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| *field == name).map(|(_, value)| value.trim().to_owned())
}

/// Returns whether a process handles a signal, see proc_pid_status(5).
pub fn handles(pid: i32, signal: Signal) -> bool {
    let caught = status(&pid.to_string(), "SigCgt");
    let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal as u32 - 1) & 1 == 1)
}

/// Returns a memory field of proc_pid_status(5), such as `RssAnon`, in bytes.
///
/// # Panics
/// Panics if the process or field does not exist.
pub fn status_bytes(pid: i32, name: &str) -> u64 {
    kilobytes(&status(&pid.to_string(), name).unwrap()).unwrap()
}

/// Returns the resident memory of a process; 0 if it does not exist.
pub fn resident_bytes(pid: i32) -> u64 {
    status(&pid.to_string(), "VmRSS").and_then(|value| kilobytes(&value)).unwrap_or_default()
}

/// Returns the peak resident memory of a process.
///
/// # Panics
/// Panics if the process does not exist.
pub fn peak_memory_bytes(pid: i32) -> u64 {
    status_bytes(pid, "VmHWM")
}

fn kilobytes(value: &str) -> Option<u64> {
    Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// All resident memory.
    pub rss: u64,
    /// Private memory and the proportional part of shared memory.
    pub pss: u64,
    /// Memory not backed by a file.
    pub anonymous: u64,
}

impl Memory {
    /// Reads proc_pid_smaps(5); zeros if the process does not exist.
    pub fn read(pid: i32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let bytes = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(kilobytes).unwrap_or_default()
        };
        Self { rss: bytes("Rss:"), pss: bytes("Pss:"), anonymous: bytes("Anonymous:") }
    }
}

/// Returns the other running processes whose command line or environment contains `path`.
pub fn mentioning(path: &Path) -> Vec<Process> {
    let needle = path.as_os_str().as_encoded_bytes();
    let names = |pid: i32, file: &str| {
        fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
    };
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    pids()
        .into_iter()
        .filter(|&pid| pid != own && (names(pid, "cmdline") || names(pid, "environ")))
        .filter_map(Process::find)
        .filter(|process| process.runs())
        .collect()
}

/// Returns the command line of a process, for messages.
pub fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Returns the environment of a process.
pub fn environment(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    bytes
        .split(|&byte| byte == 0)
        .map(|variable| String::from_utf8_lossy(variable).into_owned())
        .collect()
}

/// Returns the targets of the open file descriptors of a process.
pub fn open_files(pid: i32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// Returns the open internet sockets of a process, as `protocol:inode`.
pub fn internet_sockets(pid: i32) -> Vec<String> {
    let open: BTreeSet<String> = open_files(pid)
        .iter()
        .filter_map(|target| {
            Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let mut found = Vec::new();
    for protocol in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6", "icmp", "icmp6"] {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{protocol}")).unwrap_or_default();
        let inodes = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9));
        let own = inodes.filter(|inode| open.contains(*inode));
        found.extend(own.map(|inode| format!("{protocol}:{inode}")));
    }
    found
}

/// Returns a field of proc_pid_status(5) for each thread of a process.
pub fn thread_status(pid: i32, name: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tasks = entries.filter_map(|entry| entry.file_name().into_string().ok());
    tasks.filter_map(|task| status(&format!("{pid}/task/{task}"), name)).collect()
}

/// Returns the allowed CPUs of each thread of a process, such as `1` or `0-1`.
pub fn thread_cpus(pid: i32) -> Vec<String> {
    thread_status(pid, "Cpus_allowed_list")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_process_uses_memory_and_cpu_time() {
        let own = i32::try_from(std::process::id()).unwrap();
        let memory = Memory::read(own);
        assert!(memory.rss >= memory.pss && memory.pss > 0 && memory.anonymous > 0);
        assert!(peak_memory_bytes(own) >= memory.anonymous && resident_bytes(own) > 0);
        // Compute until the kernel has counted a tick, which takes longer on a busy machine.
        while cpu_seconds(own).0 <= 0.0 {}
        assert!(machine_seconds().0 > 0.0);
    }
}
