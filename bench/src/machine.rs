//! Measures which processes use the machine's CPUs, and waits or repeats when others disturb a
//! phase.

use std::{
    ops::Sub,
    time::{Duration, Instant},
};

use e2e::processes::{cpu_seconds, machine_seconds};
use serde::Serialize;
use tokio::time;

use crate::{
    options::Settings, report::print_line, stats::to_f64, subject::Subject, traffic::Recording,
};

/// Share of the machine's CPU time that other processes may use before results are doubtful.
pub(crate) const NOISE_MAX: f64 = 0.05;
/// Time for which the machine must be idle before a phase starts.
const QUIET_TIME: Duration = Duration::from_secs(3);
/// Maximum wait for an idle machine.
const TIMEOUT: Duration = Duration::from_secs(900);
/// Maximum number of runs of a phase until one is undisturbed.
const ATTEMPTS: usize = 20;

/// CPU seconds by consumer.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Cpu {
    /// This process.
    pub generator: f64,
    pub supervisor: f64,
    /// Exited children of the supervisor: checkers.
    pub checkers: f64,
    pub workers: f64,
    /// All other processes on the machine.
    pub others: f64,
    /// Other virtual machines on the same host.
    pub stolen: f64,
}

impl Cpu {
    /// Returns the CPU time used so far.
    pub(crate) fn now(supervisor: i32, workers: &[i32]) -> Self {
        let (generator, _) = cpu_seconds(std::process::id().cast_signed());
        let (supervisor, checkers) = cpu_seconds(supervisor);
        let workers = workers.iter().map(|pid| cpu_seconds(*pid).0).sum();
        let (busy, stolen) = machine_seconds();
        let others = busy - generator - supervisor - checkers - workers;
        Self { generator, supervisor, checkers, workers, others, stolen }
    }

    pub(crate) fn zip_with(self, other: Self, combine: impl Fn(f64, f64) -> f64) -> Self {
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
        self.zip_with(earlier, |now, then| (now - then).max(0.0))
    }
}

/// Returns the share of the machine's CPU time that other processes used.
pub(crate) fn noise(cpu: Cpu, elapsed: Duration) -> f64 {
    let cores: usize = std::thread::available_parallelism().map_or(1, Into::into);
    (cpu.others + cpu.stolen) / elapsed.as_secs_f64() / to_f64(cores as u64)
}

/// Waits until the server is idle and, with `--patient`, until the machine is idle as well.
pub(crate) async fn wait_until_idle(subject: &Subject, settings: &Settings) -> Result<(), String> {
    subject.settle().await?;
    let started = Instant::now();
    while settings.patient && started.elapsed() < TIMEOUT {
        let (before, start) = (Cpu::now(subject.server.pid(), &[]), Instant::now());
        time::sleep(QUIET_TIME).await;
        let used = Cpu::now(subject.server.pid(), &[]) - before;
        if noise(used, start.elapsed()) <= NOISE_MAX {
            break;
        }
    }
    Ok(())
}

/// Returns whether a recording must be discarded and repeated.
pub(crate) fn must_repeat(recording: &Recording, settings: &Settings, attempt: usize) -> bool {
    let noise = noise(recording.cpu, recording.elapsed);
    let must_repeat = settings.patient && noise > NOISE_MAX && attempt < ATTEMPTS;
    if must_repeat {
        print_line(&format!("  discarded: other processes used {:.0}%", noise * 100.0));
    }
    must_repeat
}
