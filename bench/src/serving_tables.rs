//! Tables of [`crate::serving`], and the measurement of another server.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use e2e::client::Client;
use serde_json::{Value, json};
use tokio::time;

use crate::{
    limit::{BatchMethod, Limit},
    options::Settings,
    report::{Table, fixed},
    serving::{CLIENTS, Served},
    stats::ms,
    subject::Subject,
    texts::Corpus,
};

pub(crate) fn print_limits(corpus: Corpus, ways: &[BatchMethod], limits: &[Limit], alone: Limit) {
    let mut table = Table::new(format!("{}: ONNX Runtime alone", corpus.name()));
    let mut row = |name: String, limit: &Limit| {
        let cells = [
            ("texts/s", fixed(limit.texts_per_second, 1)),
            ("p50 ms", fixed(limit.p50_ms, 2)),
            ("p99 ms", fixed(limit.p99_ms, 2)),
            ("CPU s/1000", fixed(limit.cpu_seconds_per_1000, 2)),
        ];
        table.row(name, cells);
    };
    row("one process, one text per call".to_owned(), &alone);
    for (way, limit) in ways.iter().zip(limits) {
        row(way.name(), limit);
    }
    table.print();
}

pub(crate) fn print_served(name: &str, served: &[Served], better: f64) {
    let mut table = Table::new(name);
    for (clients, one) in CLIENTS.iter().zip(served) {
        let latencies = one.quantiles();
        #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
        let texts_per_run = one.latencies.len() as f64 / one.micro_batches.max(1) as f64;
        let cells = [
            ("req/s", fixed(one.per_second(), 1)),
            ("x limit", fixed(one.per_second() / better, 2)),
            ("p50 ms", ms(latencies.median())),
            ("p90 ms", ms(latencies.quantile(0.9))),
            ("p99 ms", ms(latencies.p99())),
            ("failed", one.failed.to_string()),
            ("texts/run", fixed(texts_per_run, 1)),
            ("CPU s/1000", fixed(one.per_1000(one.cpu.workers + one.cpu.supervisor), 2)),
            ("x ORT's", fixed(one.overhead(), 3)),
            ("supervisor", fixed(one.per_1000(one.cpu.supervisor), 3)),
            ("generator", fixed(one.per_1000(one.cpu.generator), 3)),
        ];
        table.row(format!("{clients} clients"), cells);
    }
    table.print();
}

pub(crate) fn figures(served: &[Served]) -> Vec<Value> {
    let one = |(clients, one): (&usize, &Served)| {
        json!({
            "clients": clients,
            "per_second": one.per_second(),
            "requests": one.quantiles().summary(),
            "failed": one.failed,
            "cpu_seconds": one.cpu,
            "inference_cpu_seconds": one.inference_seconds,
            "micro_batches": one.micro_batches,
        })
    };
    CLIENTS.iter().zip(served).map(one).collect()
}

/// Measures another server. Its responses are not checked.
pub(crate) async fn other(
    subject: &Subject,
    address: SocketAddr,
    clients: usize,
    settings: &Settings,
) -> Result<Served, String> {
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let mut clients_running = Vec::new();
    for number in 0..clients {
        let client = Client::connect(address).await;
        let mut client = client.map_err(|error| format!("{address}: {error}"))?;
        let (texts, stop) = (Arc::clone(&subject.texts), Arc::clone(&stop));
        clients_running.push(tokio::spawn(async move {
            let (mut latencies, mut failed) = (Vec::new(), 0);
            while !stop.load(Ordering::Relaxed) {
                let index = (number * 37 + latencies.len()) % texts.len();
                let start = Instant::now();
                let answer = client.send(hyper::Method::POST, "/embed", texts.body(index)).await;
                latencies.push(start.elapsed());
                failed += usize::from(!answer.is_ok_and(|answer| answer.status == 200));
            }
            (latencies, failed)
        }));
    }
    time::sleep(settings.phase()).await;
    stop.store(true, Ordering::Relaxed);
    let mut served = Served { seconds: started.elapsed().as_secs_f64(), ..Served::default() };
    for one in clients_running {
        let (latencies, failed) = one.await.map_err(|error| error.to_string())?;
        served.latencies.extend(latencies);
        served.failed += failed;
    }
    Ok(served)
}
