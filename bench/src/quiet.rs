//! Whether others use this machine meanwhile, and what is done about it.

use std::time::{Duration, Instant};

use tokio::time;

use crate::{
    options::Settings, procfs::Cpu, report::say, stats::real, subject::Subject, traffic::Recording,
};

/// Of the machine's CPU time, what others may use before figures are doubted.
pub(crate) const NOISE_MAX: f64 = 0.05;
/// How long it has to be quiet before a phase begins.
const LOOK: Duration = Duration::from_secs(3);
/// How long is waited for that.
const PATIENCE: Duration = Duration::from_secs(900);
/// How often a phase is run until it is not disturbed.
const ATTEMPTS: usize = 20;

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

/// Whether a recording is to be thrown away, and made again.
pub(crate) fn again(recording: &Recording, settings: &Settings, attempt: usize) -> bool {
    let noise = noise(recording.cpu, recording.elapsed);
    let again = settings.patient && noise > NOISE_MAX && attempt < ATTEMPTS;
    if again {
        say(&format!("  thrown away: others used {:.0}%", noise * 100.0));
    }
    again
}
