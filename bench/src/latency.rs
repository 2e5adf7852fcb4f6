//! Latency of requests without updates and with them: loaded ahead, loaded lazily, and with
//! versions that are new to the server and must be checked.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time;

use crate::{
    control::{CallResult, Load},
    latency_tables as tables,
    machine::{self, Cpu},
    options::Settings,
    report::Report,
    stats::{Latencies, millis, ratio, to_f64},
    subject::{FreshVersions, Subject},
    traffic::{Recording, Traffic},
};

/// Maximum p99 with `ahead`, relative to undisturbed.
const AHEAD_P99_MAX: f64 = 1.25;
/// Maximum latency with `ahead`, relative to undisturbed.
const AHEAD_LONGEST_MAX: f64 = 3.0;
/// Minimum share of due updates that were completed.
const COMPLETED_SHARE_MIN: f64 = 0.9;
/// Maximum latency with `lazy`, relative to the longest load plus the undisturbed maximum.
const LAZY_LONGEST_MAX: f64 = 1.0;

/// What happens to the server while clients send requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Undisturbed,
    Ahead,
    Lazy,
    /// Loaded ahead, with a new version each time, which is also checked and compiled.
    Unseen,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Undisturbed, Self::Ahead, Self::Lazy, Self::Unseen];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Undisturbed => "undisturbed",
            Self::Ahead => "ahead",
            Self::Lazy => "lazy",
            Self::Unseen => "ahead, unseen",
        }
    }
}

/// All rounds of one phase.
#[derive(Debug)]
pub(crate) struct Measured {
    pub phase: Phase,
    pub recordings: Vec<Recording>,
    /// Load times of workers in refreshes.
    pub loads: Vec<Duration>,
    /// Updates that were due.
    pub due: usize,
}

impl Measured {
    pub(crate) fn latencies(&self) -> Latencies {
        self.recordings.iter().flat_map(|one| one.seen.iter().map(|seen| seen.latency())).collect()
    }

    pub(crate) fn failed(&self) -> usize {
        self.recordings.iter().map(|one| one.failed).sum()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.recordings.iter().map(|one| one.elapsed).sum()
    }

    /// Returns requests per second.
    pub(crate) fn throughput(&self) -> f64 {
        let requests: usize = self.recordings.iter().map(|one| one.seen.len()).sum();
        to_f64(requests as u64) / self.elapsed().as_secs_f64()
    }

    pub(crate) fn updates(&self) -> impl Iterator<Item = &CallResult> {
        self.recordings.iter().flat_map(|one| &one.updates)
    }

    /// Returns the durations of the updates.
    pub(crate) fn update_times(&self) -> Latencies {
        self.updates().map(|called| called.end - called.start).collect()
    }

    pub(crate) fn cpu(&self) -> Cpu {
        let all = self.recordings.iter().map(|one| one.cpu);
        all.fold(Cpu::default(), |sum, one| sum.zip_with(one, |one, other| one + other))
    }
}

/// Runs all phases in rounds, alternating their order because machines drift.
pub(crate) async fn run(
    subject: &mut Subject,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), String> {
    let mut fresh = subject.fresh()?;
    let mut all = Phase::ALL.map(|phase| Measured {
        phase,
        recordings: Vec::new(),
        loads: Vec::new(),
        due: 0,
    });
    for round in 0..settings.rounds() {
        let mut order: Vec<usize> = (0..all.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let phase = all[index].phase;
            let (recording, loads) =
                undisturbed(subject, settings, phase, &mut fresh, report).await?;
            tables::print_round(&format!("{} (round {})", phase.name(), round + 1), &recording);
            if phase != Phase::Undisturbed {
                all[index].due += due(settings);
            }
            all[index].recordings.push(recording);
            all[index].loads.extend(loads);
        }
    }
    tables::print(&all);
    report.figures("latency", all.iter().map(tables::figures).collect::<Vec<_>>());
    compare(&all, report);
    Ok(())
}

/// Returns the number of updates due in a phase. The first is due half a period after its start.
fn due(settings: &Settings) -> usize {
    let (length, period) = (settings.phase(), settings.period());
    let rest = length.saturating_sub(period / 2).as_millis();
    usize::try_from(rest.div_ceil(period.as_millis())).unwrap_or_default()
}

/// Runs one phase. With `--patient`, repeats it while other processes disturb it.
async fn undisturbed(
    subject: &mut Subject,
    settings: &Settings,
    phase: Phase,
    fresh: &mut FreshVersions,
    report: &mut Report,
) -> Result<(Recording, Vec<Duration>), String> {
    let mut attempt = 1;
    loop {
        machine::wait_until_idle(subject, settings).await?;
        let (recording, loads) = measure(subject, settings, phase, fresh).await?;
        report.violations(phase.name(), &recording.violations);
        if !machine::must_repeat(&recording, settings, attempt) {
            return Ok((recording, loads));
        }
        attempt += 1;
    }
}

/// Runs one phase once.
async fn measure(
    subject: &mut Subject,
    settings: &Settings,
    phase: Phase,
    fresh: &mut FreshVersions,
) -> Result<(Recording, Vec<Duration>), String> {
    let traffic = Traffic::start(subject, settings.clients, Duration::ZERO).await?;
    let (period, end) = (settings.period(), traffic.started() + settings.phase());
    let (mut updates, mut loads) = (Vec::new(), Vec::new());
    let mut next = traffic.started() + period / 2;
    while phase != Phase::Undisturbed && next < end {
        time::sleep_until(next.into()).await;
        updates.push(match phase {
            Phase::Lazy => subject.update(Load::Lazy).await?,
            Phase::Unseen => subject.update_to(fresh).await?,
            Phase::Ahead | Phase::Undisturbed => subject.update(Load::Ahead).await?,
        });
        if phase == Phase::Lazy {
            time::sleep_until((next + period * 3 / 4).into()).await;
            loads.extend(refresh_loads(subject).await?);
        }
        next = (next + period).max(Instant::now());
    }
    time::sleep_until(end.into()).await;
    Ok((traffic.finish(subject, updates).await?, loads))
}

/// Returns the time of each worker's last load, unless it was loaded ahead.
async fn refresh_loads(subject: &Subject) -> Result<Vec<Duration>, String> {
    let status = subject.control.status().await;
    let loads = status.workers.iter().filter_map(|worker| worker.loads.get(subject.pair.model));
    let micros = loads.map(|load| load.load_micros).filter(|micros| *micros > 0);
    Ok(micros.map(Duration::from_micros).collect())
}

fn compare([quiet, ahead, lazy, unseen]: &[Measured; 4], report: &mut Report) {
    let base = quiet.latencies();
    for (measured, name) in [(ahead, "ahead"), (unseen, "ahead, unseen versions")] {
        let latencies = measured.latencies();
        let failed = to_f64(measured.failed() as u64);
        report.at_most(&format!("{name}: failed requests"), failed, 0.0, "");
        let p99 = ratio(latencies.p99(), base.p99());
        report.at_most(&format!("{name}: p99 to undisturbed"), p99, AHEAD_P99_MAX, "x");
        let longest = ratio(latencies.longest(), base.longest());
        report.at_most(&format!("{name}: longest to undisturbed"), longest, AHEAD_LONGEST_MAX, "x");
    }
    let share = to_f64(ahead.updates().count() as u64) / to_f64(ahead.due.max(1) as u64);
    report.at_least("ahead: share of due updates made", share, COMPLETED_SHARE_MIN, "x");
    let failed = to_f64(lazy.failed() as u64);
    report.at_most("lazy: failed requests", failed, 0.0, "");
    let load = lazy.loads.iter().max().copied().unwrap_or_default();
    let bound = load + base.longest();
    let longest = ratio(lazy.latencies().longest(), bound);
    let what = "lazy: longest to one load plus longest undisturbed";
    report.at_most(what, longest, LAZY_LONGEST_MAX, "x");
    report.figures("lazy_longest_load_ms", json!(millis(load)));
}
