//! A hundred updates a second of a model so small that updating costs more than answering.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time;

use crate::{
    control::{Called, Load},
    machine,
    options::Settings,
    report::{Report, Table, fixed, say},
    stats::real,
    subject::Subject,
    traffic::{Recording, Traffic},
};

/// The pause between two calls.
const BETWEEN: Duration = Duration::from_millis(10);
/// Throughput, as a part of the undisturbed one.
const THROUGHPUT_MIN: f64 = 0.7;
/// From the last call to the first answer by the last generation, in seconds: "soon".
const LAST_MAX: f64 = 1.0;

/// How the calls of a storm ended.
#[derive(Debug, Default)]
struct Fates(BTreeMap<String, usize>);

impl Fates {
    fn of(calls: &[Called]) -> Self {
        let mut fates = Self::default();
        for called in calls {
            let fate = match &called.result {
                Ok(_) => "committed",
                Err(refusal) => refusal.kind.as_str(),
            };
            *fates.0.entry(fate.to_owned()).or_default() += 1;
        }
        fates
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

    let fates = Fates::of(&recording.updates);
    let last = recording.first_seen.last().map_or(Duration::ZERO, |(_, at)| *at);
    let last = last.saturating_sub(last_call).as_secs_f64();
    let listed = fates.0.iter().map(|(fate, count)| format!("{count} {fate}"));
    say(&format!(
        "storm: {} calls, {}; the last generation answered {last:.3} s after the last call",
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
            "calls": fates.0,
            "last_served_seconds": last,
            "cpu_seconds": recording.cpu,
        }),
    );
    report.at_most("storm: failed requests", real(recording.failed as u64), 0.0, "");
    report.at_least("storm: throughput to undisturbed", share, THROUGHPUT_MIN, "x");
    report.at_most("storm: last call to last generation served", last, LAST_MAX, " s");
    Ok(())
}

async fn undisturbed(
    subject: &Subject,
    settings: &Settings,
    length: Duration,
) -> Result<Recording, String> {
    machine::rest(subject, settings).await?;
    let traffic = Traffic::start(subject, settings.clients, Duration::ZERO).await?;
    time::sleep(length).await;
    traffic.finish(subject, Vec::new()).await
}

/// The recording, and when the last call was made.
async fn storm(
    subject: &mut Subject,
    settings: &Settings,
    length: Duration,
) -> Result<(Recording, Duration), String> {
    machine::rest(subject, settings).await?;
    let traffic = Traffic::start(subject, settings.clients, Duration::ZERO).await?;
    let mut calls = Vec::new();
    let mut next = traffic.begin();
    while next < traffic.begin() + length {
        time::sleep_until(next.into()).await;
        let control = subject.control.clone();
        let directory = subject.pair.directories[calls.len() % 2].clone();
        calls.push(tokio::spawn(async move { control.update(&directory, Load::Ahead).await }));
        next += BETWEEN;
    }
    let last_call = Instant::now() - traffic.begin();
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
    // Until clients have seen the last one.
    subject.settle().await?;
    Ok((traffic.finish(subject, updates).await?, last_call))
}

/// Requests a second that were answered within the storm, whatever was still done after it.
fn throughput(recording: &Recording, length: Duration) -> f64 {
    let within = recording.seen.iter().filter(|seen| seen.end <= length).count();
    real(within as u64) / length.as_secs_f64()
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
