//! A tiny model, whose cost is negligible: measures the server's own overhead.

use std::time::Duration;

use serde_json::json;
use tokio::time;

use crate::{
    limit::{self, BatchMethod},
    options::Settings,
    report::{Report, Table, fixed},
    stats::{millis, to_f64},
    subject::{ModelPair, Subject},
    traffic::Traffic,
};

/// Numbers of concurrent clients.
const CLIENTS: [usize; 3] = [1, 8, 64];
/// Maximum p50 that HTTP, two processes and a socket add with one client, in microseconds.
const ADDED_MAX: f64 = 150.0;
/// Minimum requests per second with 64 clients that share the CPUs with the server.
const PER_SECOND_MIN: f64 = 10_000.0;

pub(crate) async fn run(
    workers: usize,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), String> {
    let subject = Subject::start(ModelPair::tiny(), workers, settings.seed).await?;
    subject.settle().await?;
    let texts = subject.server.home().models().join("trivial.json");
    let bytes = serde_json::to_vec(subject.texts.texts()).map_err(|error| error.to_string())?;
    std::fs::write(&texts, bytes).map_err(|error| error.to_string())?;
    let seconds = settings.phase().as_secs_f64();
    let method = BatchMethod { batch: 1, window: 0 };
    let version = subject.pair.directories[1].clone();
    let alone = limit::run(&version, &texts, &[0], method, seconds).await?;
    let mut table = Table::new("tiny model");
    let cells = [
        ("req/s", fixed(alone.texts_per_second, 0)),
        ("p50 us", fixed(alone.p50_ms * 1e3, 0)),
        ("p99 us", fixed(alone.p99_ms * 1e3, 0)),
        ("failed", "0".to_owned()),
    ];
    table.row("ONNX Runtime alone, one process", cells);
    let (mut failed, mut figures, mut p50s, mut rates) = (0, Vec::new(), Vec::new(), Vec::new());
    for clients in CLIENTS {
        let traffic = Traffic::start(&subject, clients, Duration::ZERO).await?;
        time::sleep(settings.phase()).await;
        let recording = traffic.finish(&subject, Vec::new()).await?;
        report.violations("trivial", &recording.violations);
        let latencies = recording.latencies();
        let rate = to_f64(latencies.len() as u64) / recording.elapsed.as_secs_f64();
        let share =
            |seconds: f64| format!("{:.0} %", seconds / recording.elapsed.as_secs_f64() * 100.0);
        let cells = [
            ("req/s", fixed(rate, 0)),
            ("p50 us", fixed(millis(latencies.median()) * 1e3, 0)),
            ("p99 us", fixed(millis(latencies.p99()) * 1e3, 0)),
            ("failed", recording.failed.to_string()),
            ("supervisor", share(recording.cpu.supervisor)),
            ("generator", share(recording.cpu.generator)),
        ];
        table.row(format!("onnxd, {clients} clients"), cells);
        failed += recording.failed;
        p50s.push(millis(latencies.median()));
        rates.push(rate);
        figures.push(json!({
            "clients": clients, "per_second": rate, "requests": latencies.summary(),
            "cpu_seconds": recording.cpu,
        }));
    }
    table.print();
    report.figures("trivial", json!({ "alone": alone, "served": figures }));
    report.at_most("tiny: failed requests", to_f64(failed as u64), 0.0, "");
    let added = (p50s[0] - alone.p50_ms) * 1e3;
    report.at_most("tiny: 1 client, added p50", added, ADDED_MAX, " us");
    report.at_least("tiny: 64 clients", rates[2], PER_SECOND_MIN, "/s");
    subject.server.stop().await;
    Ok(())
}
