//! A hundred updates per second of a tiny model, for which updates cost more than requests.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time;

use crate::{
    control::{CallResult, Load},
    machine,
    options::Settings,
    report::{Report, Table, fixed, print_line},
    stats::to_f64,
    subject::Subject,
    traffic::{Recording, Traffic},
};

/// Time between two calls.
const CALL_INTERVAL: Duration = Duration::from_millis(10);
/// Minimum throughput, relative to undisturbed.
const THROUGHPUT_MIN: f64 = 0.7;
/// Maximum seconds from the last call to the first response of the last generation.
const LAST_RESPONSE_SECONDS_MAX: f64 = 1.0;

/// Outcomes of a storm's calls, with counts.
#[derive(Debug, Default)]
struct Outcomes(BTreeMap<String, usize>);

impl Outcomes {
    fn count(calls: &[CallResult]) -> Self {
        let mut outcomes = Self::default();
        for called in calls {
            let outcome = match &called.result {
                Ok(_) => "committed",
                Err(refusal) => refusal.kind.as_str(),
            };
            *outcomes.0.entry(outcome.to_owned()).or_default() += 1;
        }
        outcomes
    }
}

pub(crate) async fn run(
    subject: &mut Subject,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), String> {
    let length = settings.storm_phase();
    let mut quiet = Vec::new();
    quiet.push(undisturbed(subject, settings, length).await?);
    let (recording, last_call) = storm(subject, settings, length).await?;
    quiet.push(undisturbed(subject, settings, length).await?);
    for recording in quiet.iter().chain([&recording]) {
        report.violations("storm", &recording.violations);
    }
    let base = quiet.iter().map(|one| throughput(one, length)).sum::<f64>() / 2.0;
    print(&quiet, &recording, length);

    let outcomes = Outcomes::count(&recording.updates);
    let last = recording.first_seen.last().map_or(Duration::ZERO, |(_, at)| *at);
    let last = last.saturating_sub(last_call).as_secs_f64();
    let listed = outcomes.0.iter().map(|(outcome, count)| format!("{count} {outcome}"));
    print_line(&format!(
        "storm: {} calls, {}; the last generation served {last:.3} s after the last call",
        recording.updates.len(),
        listed.collect::<Vec<_>>().join(", "),
    ));
    let share = throughput(&recording, length) / base;
    report.figures(
        "storm",
        json!({
            "undisturbed_per_second": base,
            "per_second": throughput(&recording, length),
            "requests": recording.latencies().summary(),
            "calls": outcomes.0,
            "last_served_seconds": last,
            "cpu_seconds": recording.cpu,
        }),
    );
    report.at_most("storm: failed requests", to_f64(recording.failed as u64), 0.0, "");
    report.at_least("storm: throughput to undisturbed", share, THROUGHPUT_MIN, "x");
    report.at_most(
        "storm: last call to last generation served",
        last,
        LAST_RESPONSE_SECONDS_MAX,
        " s",
    );
    Ok(())
}

async fn undisturbed(
    subject: &Subject,
    settings: &Settings,
    length: Duration,
) -> Result<Recording, String> {
    machine::wait_until_idle(subject, settings).await?;
    let traffic = Traffic::start(subject, settings.clients, Duration::ZERO).await?;
    time::sleep(length).await;
    traffic.finish(subject, Vec::new()).await
}

/// Returns the recording and the time of the last call.
async fn storm(
    subject: &mut Subject,
    settings: &Settings,
    length: Duration,
) -> Result<(Recording, Duration), String> {
    machine::wait_until_idle(subject, settings).await?;
    let traffic = Traffic::start(subject, settings.clients, Duration::ZERO).await?;
    let mut calls = Vec::new();
    let mut next = traffic.started();
    while next < traffic.started() + length {
        time::sleep_until(next.into()).await;
        let control = subject.control.clone();
        let directory = subject.pair.directories[calls.len() % 2].clone();
        calls.push(tokio::spawn(async move { control.update(&directory, Load::Ahead).await }));
        next += CALL_INTERVAL;
    }
    let last_call = Instant::now() - traffic.started();
    let mut updates = Vec::new();
    for call in calls {
        let called = call.await.map_err(|error| error.to_string())??;
        if let Ok(committed) = &called.result
            && committed.generation > subject.serving.generation
        {
            subject.serving = committed.clone();
        }
        updates.push(called);
    }
    // Wait until clients have seen the last generation.
    subject.settle().await?;
    Ok((traffic.finish(subject, updates).await?, last_call))
}

/// Returns requests per second that were answered during the storm, ignoring later ones.
fn throughput(recording: &Recording, length: Duration) -> f64 {
    let within = recording.seen.iter().filter(|seen| seen.end <= length).count();
    to_f64(within as u64) / length.as_secs_f64()
}

fn print(quiet: &[Recording], storm: &Recording, length: Duration) {
    let mut table = Table::new("tiny model");
    let rows = [("undisturbed", &quiet[0]), ("storm", storm), ("undisturbed", &quiet[1])];
    for (name, recording) in rows {
        let latencies = recording.latencies();
        let cpu = recording.cpu;
        let counts = [
            ("req/s", fixed(throughput(recording, length), 0)),
            ("failed", recording.failed.to_string()),
        ];
        let used = [
            ("CPU s: workers", fixed(cpu.workers, 1)),
            ("supervisor", fixed(cpu.supervisor, 1)),
            ("checkers", fixed(cpu.checkers, 1)),
            ("generator", fixed(cpu.generator, 1)),
            ("others", fixed(cpu.others, 1)),
        ];
        table.row(name, counts.into_iter().chain(latencies.cells()).chain(used));
    }
    table.print();
}
