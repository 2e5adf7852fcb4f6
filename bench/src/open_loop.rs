//! Open-loop requests, which arrive regardless of earlier responses, as from many independent
//! users. Arrivals follow a Poisson process, at a share of the capacity and above it.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use e2e::{client::Client, random::Random};
use serde_json::json;
use tokio::{task::LocalSet, time};

use crate::{
    machine,
    options::Settings,
    report::{Report, Table, fixed},
    stats::{Latencies, millis, ms, to_f64},
    subject::Subject,
    texts::Corpus,
};

/// Offered loads, relative to the capacity.
const LOADS: [f64; 3] = [0.5, 0.8, 1.2];
/// Minimum goodput under overload, relative to the capacity.
const GOODPUT_MIN: f64 = 0.95;
/// p99 of accepted requests, relative to the time a full queue takes.
const P99_MAX: f64 = 1.25;

/// Results of one load.
#[derive(Debug, Default)]
struct Outcome {
    /// Latencies of requests answered 200, counted from their due times.
    latencies: Vec<Duration>,
    /// Responses with status 429.
    refused: usize,
    /// All other outcomes.
    failed: usize,
    /// Responses within the phase.
    in_time: usize,
}

/// Capacity of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// Corpus that it was measured with.
    pub corpus: Corpus,
    /// Requests per second with many closed-loop clients.
    pub per_second: f64,
    /// Requests that may be queued.
    pub queue_limit: usize,
}

pub(crate) async fn run(
    subject: &Subject,
    capacity: Capacity,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), String> {
    let Capacity { corpus, per_second: capacity, queue_limit } = capacity;
    let mut table = Table::new(format!("{}: open loop", corpus.name()));
    let mut figures = Vec::new();
    for load in LOADS {
        machine::wait_until_idle(subject, settings).await?;
        let rate = capacity * load;
        let outcome = LocalSet::new().run_until(offer(subject, rate, settings)).await;
        let latencies: Latencies = outcome.latencies.iter().copied().collect();
        let goodput = to_f64(outcome.in_time as u64) / settings.phase().as_secs_f64();
        let cells = [
            ("due/s", fixed(rate, 1)),
            ("answered/s", fixed(goodput, 1)),
            ("p50 ms", ms(latencies.median())),
            ("p90 ms", ms(latencies.quantile(0.9))),
            ("p99 ms", ms(latencies.p99())),
            ("429", outcome.refused.to_string()),
            ("failed", outcome.failed.to_string()),
        ];
        table.row(format!("{:.0} % of capacity", load * 100.0), cells);
        figures.push(json!({
            "load": load, "rate": rate, "goodput": goodput, "refused": outcome.refused,
            "failed": outcome.failed, "requests": latencies.summary(),
        }));
        let what = format!("{}: open loop at {load}, failed", corpus.name());
        report.at_most(&what, to_f64(outcome.failed as u64), 0.0, "");
        if load > 1.0 {
            let what = format!("{}: open loop at {load}, goodput to the peak", corpus.name());
            report.at_least(&what, goodput / capacity, GOODPUT_MIN, "x");
            let full_ms = to_f64(queue_limit as u64) / capacity * 1e3;
            let what = format!("{}: open loop at {load}, p99 to a full queue", corpus.name());
            report.at_most(&what, millis(latencies.p99()) / full_ms, P99_MAX, "x");
        }
    }
    table.print();
    report.figures(&format!("{}_open_loop", corpus.name()), figures);
    Ok(())
}

/// Offers requests for one phase and waits for all responses.
async fn offer(subject: &Subject, rate: f64, settings: &Settings) -> Outcome {
    let mut random = Random::new(settings.seed);
    let idle: Rc<RefCell<Vec<Client>>> = Rc::default();
    let outcome: Rc<RefCell<Outcome>> = Rc::default();
    let start = Instant::now();
    let (mut due, mut requests, mut index) = (Duration::ZERO, Vec::new(), 0);
    loop {
        due += Duration::from_secs_f64(random.exponential() / rate);
        if due >= settings.phase() {
            break;
        }
        time::sleep_until((start + due).into()).await;
        index = (index + 1) % subject.texts.len();
        let (body, address) = (subject.texts.body(index), subject.server.address());
        let (idle, outcome, end) = (Rc::clone(&idle), Rc::clone(&outcome), settings.phase());
        requests.push(tokio::task::spawn_local(async move {
            let free = idle.borrow_mut().pop();
            let client = match free {
                Some(client) => Ok(client),
                None => Client::connect(address).await,
            };
            let Ok(mut client) = client else {
                outcome.borrow_mut().failed += 1;
                return;
            };
            let answer = client.send(hyper::Method::POST, "/embed", body).await;
            let mut outcome = outcome.borrow_mut();
            match answer.map(|answer| answer.status) {
                Ok(200) => {
                    outcome.latencies.push(start.elapsed() - due);
                    outcome.in_time += usize::from(start.elapsed() <= end);
                }
                Ok(429) => outcome.refused += 1,
                _ => {
                    outcome.failed += 1;
                    return;
                }
            }
            idle.borrow_mut().push(client);
        }));
    }
    for request in requests {
        // A task that panicked counts as no response, which the sums show.
        let _ = request.await;
    }
    outcome.take()
}
