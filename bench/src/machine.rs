//! Who uses the machine's CPUs, and what is done about it if others do.

use std::{
    ops::Sub,
    time::{Duration, Instant},
};

use e2e::processes::{cpu_seconds, machine_seconds};
use serde::Serialize;
use tokio::time;

use crate::{options::Settings, report::say, stats::real, subject::Subject, traffic::Recording};

/// Of the machine's CPU time, what others may use before figures are doubted.
pub(crate) const NOISE_MAX: f64 = 0.05;
/// How long it has to be quiet before a phase begins.
const LOOK: Duration = Duration::from_secs(3);
/// How long is waited for that.
const PATIENCE: Duration = Duration::from_secs(900);
/// How often a phase is run until it is not disturbed.
const ATTEMPTS: usize = 20;

/// CPU seconds that were used up.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Cpu {
    /// By this process.
    pub generator: f64,
    pub supervisor: f64,
    /// By processes of the supervisor that have ended: checkers.
    pub checkers: f64,
    pub workers: f64,
    /// By all other processes of this machine.
    pub others: f64,
    /// By the machines beside this virtual one.
    pub stolen: f64,
}

impl Cpu {
    /// What was used until now.
    pub(crate) fn now(supervisor: i32, workers: &[i32]) -> Self {
        let (generator, _) = cpu_seconds(std::process::id().cast_signed());
        let (supervisor, checkers) = cpu_seconds(supervisor);
        let workers = workers.iter().map(|pid| cpu_seconds(*pid).0).sum();
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

/// What others used of all CPU time of the machine.
pub(crate) fn noise(cpu: Cpu, elapsed: Duration) -> f64 {
    let cores: usize = std::thread::available_parallelism().map_or(1, Into::into);
    (cpu.others + cpu.stolen) / elapsed.as_secs_f64() / real(cores as u64)
}

/// Waits until the server is at rest, and with `--patient` until all others are, too.
pub(crate) async fn rest(subject: &Subject, settings: &Settings) -> Result<(), String> {
    subject.settle().await?;
    let begin = Instant::now();
    while settings.patient && begin.elapsed() < PATIENCE {
        let (before, start) = (Cpu::now(subject.server.pid(), &[]), Instant::now());
        time::sleep(LOOK).await;
        let used = Cpu::now(subject.server.pid(), &[]) - before;
        if noise(used, start.elapsed()) <= NOISE_MAX {
            break;
        }
    }
    Ok(())
}

/// Whether a recording is discarded and repeated.
pub(crate) fn again(recording: &Recording, settings: &Settings, attempt: usize) -> bool {
    let noise = noise(recording.cpu, recording.elapsed);
    let again = settings.patient && noise > NOISE_MAX && attempt < ATTEMPTS;
    if again {
        say(&format!("  thrown away: others used {:.0}%", noise * 100.0));
    }
    again
}
