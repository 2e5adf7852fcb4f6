//! Reads `/proc`: processes, their memory and CPU time, and the whole machine's.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use nix::{sys::signal, unistd::Pid};
use serde::Serialize;

pub use nix::sys::signal::Signal;

/// `USER_HZ`, the unit of CPU time in `/proc`: 100 on every Linux, whatever the kernel's own is.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process, told apart from a later one with the same pid by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    started: u64,
}

impl Process {
    /// The process that has this pid now.
    pub fn find(pid: i32) -> Option<Self> {
        Some(Self { pid, started: Stat::read(pid)?.started })
    }

    /// When it was started, in ticks since the machine was.
    pub fn started(self) -> u64 {
        self.started
    }

    /// Whether it still runs. One that ended and waits for its parent does not.
    pub fn runs(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != 'Z')
    }

    /// Sends a signal, unless the process is gone.
    pub fn signal(self, signal: Signal) {
        if self.runs() {
            // It may be gone by now, which is what most signals here are for.
            let _ = signal::kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// Sends a signal to the process that has this pid now.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(process) = Process::find(pid) {
        process.signal(signal);
    }
}

/// proc_pid_stat(5).
struct Stat {
    state: char,
    parent: i32,
    /// Of its own, in user and kernel mode.
    cpu_ticks: u64,
    /// Of its children that have ended.
    children_ticks: u64,
    nice: i32,
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
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

/// All running children of a process, their children, and so on.
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

/// CPU time that a process has used, in ticks of 10 ms.
///
/// # Panics
/// It is gone.
pub fn cpu_ticks(pid: i32) -> u64 {
    Stat::read(pid).unwrap().cpu_ticks
}

/// CPU seconds that a process and its children that have ended have used; 0 if it is gone.
pub fn cpu_seconds(pid: i32) -> (f64, f64) {
    let seconds = |ticks: u64| real(ticks) / TICKS_PER_SECOND;
    Stat::read(pid)
        .map_or((0.0, 0.0), |stat| (seconds(stat.cpu_ticks), seconds(stat.children_ticks)))
}

/// Busy and stolen seconds of all CPUs, proc_stat(5).
pub fn machine_seconds() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    match ticks[..] {
        [user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] => {
            let busy = user + nice + system + irq + softirq;
            (real(busy) / TICKS_PER_SECOND, real(stolen) / TICKS_PER_SECOND)
        }
        _ => (0.0, 0.0),
    }
}

#[expect(clippy::cast_precision_loss, reason = "ticks are far below 2^52")]
fn real(ticks: u64) -> f64 {
    ticks as f64
}

/// How far a process yields to others.
///
/// # Panics
/// It is gone.
pub fn nice(pid: i32) -> i32 {
    Stat::read(pid).unwrap().nice
}

/// Kernel, CPU and load of this machine, for people.
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

/// Children of a process that have ended and that it has not waited for.
pub fn zombies(pid: i32) -> Vec<i32> {
    let is_zombie = |child: &i32| {
        Stat::read(*child).is_some_and(|stat| stat.parent == pid && stat.state == 'Z')
    };
    pids().into_iter().filter(is_zombie).collect()
}

/// A field of proc_pid_status(5), such as `TracerPid`; `task` is a pid, or `PID/task/TID`.
pub fn status(task: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{task}/status")).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| *field == name).map(|(_, value)| value.trim().to_owned())
}

/// A field of proc_pid_status(5) that counts memory, such as `RssAnon`.
///
/// # Panics
/// There is no such process or field.
pub fn status_bytes(pid: i32, name: &str) -> u64 {
    kilobytes(&status(&pid.to_string(), name).unwrap()).unwrap()
}

/// The memory that a process has in use; 0 if it is gone.
pub fn resident_bytes(pid: i32) -> u64 {
    status(&pid.to_string(), "VmRSS").and_then(|value| kilobytes(&value)).unwrap_or_default()
}

/// The most memory that a process ever had in use.
///
/// # Panics
/// There is no such process.
pub fn peak_memory_bytes(pid: i32) -> u64 {
    status_bytes(pid, "VmHWM")
}

fn kilobytes(value: &str) -> Option<u64> {
    Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Bytes that a process has in memory.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Everything that is resident.
    pub rss: u64,
    /// Its own, and of what it shares its part.
    pub pss: u64,
    /// What no file backs.
    pub anonymous: u64,
}

impl Memory {
    /// Reads proc_pid_smaps(5); zeros if the process is gone.
    pub fn of(pid: i32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let bytes = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(kilobytes).unwrap_or_default()
        };
        Self { rss: bytes("Rss:"), pss: bytes("Pss:"), anonymous: bytes("Anonymous:") }
    }
}

/// Running processes, other than this one, whose command line or environment names `path`.
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

/// A process's command line, for people.
pub fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// A process's environment.
pub fn environment(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    bytes
        .split(|&byte| byte == 0)
        .map(|variable| String::from_utf8_lossy(variable).into_owned())
        .collect()
}

/// What a process's open file descriptors point to.
pub fn open_files(pid: i32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// The internet sockets that a process has open, as `protocol:inode`.
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

/// A field of proc_pid_status(5) of each thread of a process.
pub fn thread_status(pid: i32, name: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tasks = entries.filter_map(|entry| entry.file_name().into_string().ok());
    tasks.filter_map(|task| status(&format!("{pid}/task/{task}"), name)).collect()
}

/// For each thread of a process the CPUs it may use, such as `1` or `0-1`.
pub fn thread_cpus(pid: i32) -> Vec<String> {
    thread_status(pid, "Cpus_allowed_list")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_cpu_time() {
        let own = i32::try_from(std::process::id()).unwrap();
        let memory = Memory::of(own);
        assert!(memory.rss >= memory.pss && memory.pss > 0 && memory.anonymous > 0);
        assert!(peak_memory_bytes(own) >= memory.anonymous && resident_bytes(own) > 0);
        let begin = std::time::Instant::now();
        while begin.elapsed().as_millis() < 60 {}
        assert!(cpu_seconds(own).0 > 0.0 && machine_seconds().0 > 0.0);
    }
}
