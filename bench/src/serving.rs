//! Throughput and latency against ONNX Runtime alone. Alternates between limits and the server with
//! more and more clients, and reverses the order in the next round because machines drift.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use e2e::processes::Memory;
use serde_json::json;
use tokio::time;

use crate::{
    limit::{self, BatchMethod, Limit},
    machine::{self, Cpu},
    open_loop::{self, Capacity},
    options::Settings,
    report::{Report, print_line},
    serving_tables as tables,
    stats::{Latencies, millis, to_f64},
    subject::{ModelPair, Subject},
    texts::{Corpus, Texts},
    traffic::Traffic,
};

/// Numbers of concurrent clients.
pub(crate) const CLIENTS: [usize; 4] = [1, 4, 16, 64];
/// Queue limit of the server, small enough for an open loop to fill the queue in seconds.
const QUEUE_LIMIT: usize = 256;
/// ONNX Runtime alone: the two limits, and what batching 16 texts at a time achieves.
const BATCH_METHODS: [BatchMethod; 3] = [
    BatchMethod { batch: 1, window: 0 },
    BatchMethod { batch: 8, window: 0 },
    BatchMethod { batch: 8, window: 16 },
];
/// How many of [`BATCH_METHODS`] are limits.
const LIMITS: usize = 2;

/// Minimum throughput with 16 clients, relative to the better limit.
fn throughput_min(corpus: Corpus) -> f64 {
    match corpus {
        Corpus::Short => 0.92,
        Corpus::Mixed => 0.97,
    }
}
/// Maximum p50 with one client: this multiple of one text on one thread, plus a constant.
const ALONE_MAX: f64 = 1.05;
const ALONE_EXTRA_MS: f64 = 0.3;
/// CPU time of supervisor and workers, relative to the workers' time in ONNX Runtime.
const CPU_MAX: f64 = 1.05;
/// Maximum seconds from the start of the server to its first response.
const FIRST_ANSWER_MAX: f64 = 1.0;

/// All rounds with one number of clients.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub latencies: Vec<Duration>,
    pub failed: usize,
    pub seconds: f64,
    pub cpu: Cpu,
    /// CPU seconds in ONNX Runtime.
    pub inference_seconds: f64,
    pub micro_batches: u64,
}

impl Served {
    pub(crate) fn per_second(&self) -> f64 {
        to_f64(self.latencies.len() as u64) / self.seconds
    }

    pub(crate) fn quantiles(&self) -> Latencies {
        self.latencies.iter().copied().collect()
    }

    /// Returns a value per 1,000 requests.
    pub(crate) fn per_1000(&self, seconds: f64) -> f64 {
        seconds / to_f64(self.latencies.len() as u64) * 1e3
    }

    /// Returns the server's CPU time, relative to that in ONNX Runtime.
    pub(crate) fn overhead(&self) -> f64 {
        (self.cpu.workers + self.cpu.supervisor) / self.inference_seconds
    }
}

/// Setup for one corpus.
struct Bench<'a> {
    subject: Subject,
    settings: &'a Settings,
    cpus: Vec<u16>,
    version: PathBuf,
    texts: PathBuf,
}

pub(crate) async fn run(
    pair: &ModelPair,
    corpus: Corpus,
    workers: usize,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), String> {
    let bench = Bench::start(pair, corpus, workers, settings).await?;
    let mut alone = Vec::new();
    let mut limits: Vec<Vec<Limit>> = vec![Vec::new(); BATCH_METHODS.len()];
    let mut served: Vec<Served> = CLIENTS.iter().map(|_| Served::default()).collect();
    let mut other: Vec<Served> = CLIENTS.iter().map(|_| Served::default()).collect();
    // Run a limit next to each number of clients.
    for round in 0..settings.rounds() {
        let mut steps: Vec<usize> = (0..CLIENTS.len()).collect();
        if round % 2 == 1 {
            steps.reverse();
        }
        for step in steps {
            match step {
                0 => alone.push(bench.limit(BATCH_METHODS[0], 1).await?),
                step => {
                    let method = step - 1;
                    limits[method]
                        .push(bench.limit(BATCH_METHODS[method], bench.cpus.len()).await?);
                }
            }
            bench.serve(CLIENTS[step], &mut served[step], report).await?;
            if let Some(address) = settings.other {
                let seen = tables::other(&bench.subject, address, CLIENTS[step], settings).await?;
                other[step].latencies.extend(seen.latencies);
                other[step].failed += seen.failed;
                other[step].seconds += seen.seconds;
            }
        }
    }
    let limits: Vec<Limit> = limits.iter().map(|all| mean(all)).collect();
    let alone = mean(&alone);
    let memory = bench.memory().await?;
    tables::print_limits(corpus, &BATCH_METHODS, &limits, alone);
    let better = limits[..LIMITS].iter().map(|limit| limit.texts_per_second).fold(0.0, f64::max);
    tables::print_served("onnxd", &served, better);
    if settings.other.is_some() {
        tables::print_served("other", &other, better);
    }
    print_line(&format!("memory of all processes: {memory:.1} MB (PSS)"));
    compare(corpus, alone, better, &served, report);
    let figures = json!({
        "limits": limits,
        "alone": alone,
        "served": tables::figures(&served),
        "pss_mb": memory,
    });
    report.figures(corpus.name(), figures);
    let per_second = served[CLIENTS.len() - 1].per_second();
    let capacity = Capacity { corpus, per_second, queue_limit: QUEUE_LIMIT };
    open_loop::run(&bench.subject, capacity, settings, report).await?;
    bench.end(workers, report, corpus).await
}

impl<'a> Bench<'a> {
    async fn start(
        pair: &ModelPair,
        corpus: Corpus,
        workers: usize,
        settings: &'a Settings,
    ) -> Result<Self, String> {
        let limit = ["--queue-limit".to_owned(), QUEUE_LIMIT.to_string()];
        let builder =
            limit.iter().fold(pair.builder(workers), |builder, one| builder.argument(one));
        let server = builder.start().await;
        let texts = Texts::new(settings.seed, pair.model, corpus);
        let file = server.home().models().join(format!("{}.json", corpus.name()));
        let bytes = serde_json::to_vec(texts.texts()).map_err(|error| error.to_string())?;
        std::fs::write(&file, bytes).map_err(|error| error.to_string())?;
        let subject = Subject::prepare(server, pair.clone(), texts).await?;
        subject.settle().await?;
        let status = subject.control.status().await;
        let cpus = status.workers.iter().filter_map(|worker| worker.cpu).collect();
        let version = subject.pair.directories[1].clone();
        Ok(Self { subject, settings, cpus, version, texts: file })
    }

    async fn limit(&self, method: BatchMethod, processes: usize) -> Result<Limit, String> {
        machine::wait_until_idle(&self.subject, self.settings).await?;
        let seconds = self.settings.phase().as_secs_f64();
        limit::run(&self.version, &self.texts, &self.cpus[..processes], method, seconds).await
    }

    async fn serve(
        &self,
        clients: usize,
        served: &mut Served,
        report: &mut Report,
    ) -> Result<(), String> {
        machine::wait_until_idle(&self.subject, self.settings).await?;
        let before = self.subject.control.status().await;
        let traffic = Traffic::start(&self.subject, clients, Duration::ZERO).await?;
        time::sleep(self.settings.phase()).await;
        let recording = traffic.finish(&self.subject, Vec::new()).await?;
        let after = self.subject.control.status().await;
        report.violations(&format!("{clients} clients"), &recording.violations);
        let rise = |name: &str| after.counter(name) - before.counter(name);
        served.latencies.extend(recording.seen.iter().map(|seen| seen.latency()));
        served.failed += recording.failed;
        served.seconds += recording.elapsed.as_secs_f64();
        served.cpu = served.cpu.zip_with(recording.cpu, |one, other| one + other);
        served.inference_seconds += to_f64(rise("inference_cpu_micros_total")) / 1e6;
        served.micro_batches += rise("micro_batches_total");
        Ok(())
    }

    /// Returns the PSS of the supervisor and all workers, in megabytes.
    async fn memory(&self) -> Result<f64, String> {
        let mut pids = self.subject.worker_pids().await;
        pids.push(self.subject.server.pid());
        Ok(pids.into_iter().map(|pid| to_f64(Memory::read(pid).pss)).sum::<f64>() / 1e6)
    }

    /// Restarts the server with its compiled forms and times the first response.
    async fn end(self, workers: usize, report: &mut Report, corpus: Corpus) -> Result<(), String> {
        let home = std::sync::Arc::clone(self.subject.server.home());
        let pair = self.subject.pair.clone();
        self.subject.server.stop().await;
        let start = Instant::now();
        let server = pair.builder(workers).home(&home).start().await;
        let mut client = server.client().await;
        let body = self.subject.texts.body(0);
        let answer = client.send(hyper::Method::POST, "/embed", body).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let first = start.elapsed().as_secs_f64();
        if answer.status != 200 {
            report
                .violations("start", &[format!("the first response has status {}", answer.status)]);
        }
        server.stop().await;
        let what = format!("{}: from start to first response", corpus.name());
        report.at_most(&what, first, FIRST_ANSWER_MAX, " s");
        Ok(())
    }
}

fn mean(all: &[Limit]) -> Limit {
    let count = to_f64(all.len().max(1) as u64);
    let mean = |part: fn(&Limit) -> f64| all.iter().map(part).sum::<f64>() / count;
    Limit {
        texts_per_second: mean(|one| one.texts_per_second),
        cpu_seconds_per_1000: mean(|one| one.cpu_seconds_per_1000),
        p50_ms: mean(|one| one.p50_ms),
        p99_ms: mean(|one| one.p99_ms),
    }
}

fn compare(corpus: Corpus, alone: Limit, better: f64, served: &[Served], report: &mut Report) {
    let name = corpus.name();
    let failed: usize = served.iter().map(|one| one.failed).sum();
    report.at_most(&format!("{name}: failed requests"), to_f64(failed as u64), 0.0, "");
    let [one, _, sixteen, _] = served else { return };
    let share = sixteen.per_second() / better;
    let what = format!("{name}: 16 clients to the better limit");
    report.at_least(&what, share, throughput_min(corpus), "x");
    let allowed = alone.p50_ms * ALONE_MAX + ALONE_EXTRA_MS;
    let p50 = millis(one.quantiles().median());
    let what = format!("{name}: 1 client, p50 to the allowed {allowed:.2} ms");
    report.at_most(&what, p50 / allowed, 1.0, "x");
    let what = format!("{name}: 16 clients, CPU time to that in ONNX Runtime");
    report.at_most(&what, sixteen.overhead(), CPU_MAX, "x");
}
