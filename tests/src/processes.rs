//! What `/proc` says about processes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use nix::{sys::signal, unistd::Pid};

pub use nix::sys::signal::Signal;

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

struct Stat {
    state: char,
    parent: i32,
    /// Of its own, in user and kernel mode.
    cpu_ticks: u64,
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            cpu_ticks: fields.get(11)?.parse::<u64>().ok()?
                + fields.get(12)?.parse::<u64>().ok()?,
            started: fields.get(19)?.parse().ok()?,
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

/// Children of a process that have ended and that it has not waited for.
pub fn zombies(pid: i32) -> Vec<i32> {
    let is_zombie = |child: &i32| {
        Stat::read(*child).is_some_and(|stat| stat.parent == pid && stat.state == 'Z')
    };
    pids().into_iter().filter(is_zombie).collect()
}

/// The most memory that a process ever had in use.
///
/// # Panics
/// There is no such process.
pub fn peak_memory_bytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
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

/// For each thread of a process the CPUs it may use, such as `1` or `0-1`.
pub fn thread_cpus(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list:"))?;
            Some(line.split_whitespace().nth(1)?.to_owned())
        })
        .collect()
}
