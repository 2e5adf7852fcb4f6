//! What `/proc` says about CPU time and memory.

use std::{fs, ops::Sub};

use serde::Serialize;

/// `USER_HZ`, the unit of CPU time in `/proc`: 100 on every Linux, whatever the kernel's own is.
const TICKS_A_SECOND: f64 = 100.0;

/// CPU seconds that were used up.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Cpu {
    /// By this process.
    pub generator: f64,
    pub supervisor: f64,
    /// By processes of the supervisor that have ended: checkers.
    pub checkers: f64,
    pub workers: f64,
    /// By whoever else runs on this machine.
    pub others: f64,
    /// By the machines beside this virtual one.
    pub stolen: f64,
}

impl Cpu {
    /// What was used until now.
    pub(crate) fn now(supervisor: i32, workers: &[i32]) -> Self {
        let (generator, _) = cpu_seconds("self");
        let (supervisor, checkers) = cpu_seconds(&supervisor.to_string());
        let workers = workers.iter().map(|pid| cpu_seconds(&pid.to_string()).0).sum();
        let (busy, stolen) = machine_seconds();
        let others = busy - generator - supervisor - checkers - workers;
        Self { generator, supervisor, checkers, workers, others, stolen }
    }

    pub(crate) fn each(self, other: Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            generator: combine(self.generator, other.generator),
            supervisor: combine(self.supervisor, other.supervisor),
            checkers: combine(self.checkers, other.checkers),
            workers: combine(self.workers, other.workers),
            others: combine(self.others, other.others),
            stolen: combine(self.stolen, other.stolen),
        }
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        self.each(earlier, |now, then| (now - then).max(0.0))
    }
}

/// Of a process and of its children that have ended, proc_pid_stat(5).
fn cpu_seconds(pid: &str) -> (f64, f64) {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in brackets, may hold anything.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: Vec<f64> =
        fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    match ticks[..] {
        [user, system, children_user, children_system] => {
            ((user + system) / TICKS_A_SECOND, (children_user + children_system) / TICKS_A_SECOND)
        }
        _ => (0.0, 0.0),
    }
}

/// Busy and stolen seconds of all CPUs, proc_stat(5).
fn machine_seconds() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> =
        line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    match ticks[..] {
        [user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] => {
            ((user + nice + system + irq + softirq) / TICKS_A_SECOND, stolen / TICKS_A_SECOND)
        }
        _ => (0.0, 0.0),
    }
}

/// Bytes that a process has in memory.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// Everything that is resident.
    pub rss: u64,
    /// Its own, and of what it shares its part.
    pub pss: u64,
    /// What no file backs.
    pub anonymous: u64,
}

impl Memory {
    /// proc_pid_smaps(5).
    pub(crate) fn of(pid: i32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let bytes = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let kilobytes = value.trim().trim_end_matches(" kB").parse::<u64>();
            kilobytes.unwrap_or_default() * 1024
        };
        Self { rss: bytes("Rss:"), pss: bytes("Pss:"), anonymous: bytes("Anonymous:") }
    }
}

/// The machine, for people.
pub(crate) fn machine() -> Vec<(&'static str, String)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_cpu_time() {
        let own = i32::try_from(std::process::id()).unwrap();
        let memory = Memory::of(own);
        assert!(memory.rss >= memory.pss && memory.pss > 0 && memory.anonymous > 0);
        let before = Cpu::now(own, &[]);
        let begin = std::time::Instant::now();
        while begin.elapsed().as_millis() < 60 {}
        assert!((Cpu::now(own, &[]) - before).generator > 0.0);
    }
}
