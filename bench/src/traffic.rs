//! Closed-loop clients that send requests without retries, and their recordings.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::{
    client::{self, Client, Response},
    history::{History, Label, Outcome, Request, Update},
};
use hyper::Method;
use tokio::{task::JoinHandle, time};

use crate::{control::CallResult, machine::Cpu, stats::Latencies, subject::Subject, texts::Texts};

/// Maximum number of violations to print.
const SHOWN_MAX: usize = 5;

/// Running clients.
pub(crate) struct Traffic {
    started: Instant,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<(Request, Timing)>>>,
    /// What was serving at the start.
    initial: Update,
    pids: Vec<i32>,
    cpu: Cpu,
}

struct Shared {
    texts: Arc<Texts>,
    stop: AtomicBool,
    sent: AtomicUsize,
}

/// A request, with times relative to the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestSample {
    pub start: Duration,
    pub end: Duration,
    pub timing: Timing,
}

impl RequestSample {
    pub(crate) fn latency(&self) -> Duration {
        self.end - self.start
    }
}

/// Phases from the `server-timing` header; zero if missing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    pub queue: Duration,
    pub infer: Duration,
}

/// Everything recorded between start and finish.
#[derive(Debug)]
pub(crate) struct Recording {
    pub started: Instant,
    pub elapsed: Duration,
    pub seen: Vec<RequestSample>,
    pub failed: usize,
    pub updates: Vec<CallResult>,
    pub cpu: Cpu,
    /// Violations of guarantees; should be empty.
    pub violations: Vec<String>,
    /// When each generation was first seen in a response.
    pub first_seen: Vec<(u64, Duration)>,
}

impl Recording {
    pub(crate) fn latencies(&self) -> Latencies {
        self.seen.iter().map(RequestSample::latency).collect()
    }
}

impl Traffic {
    /// Starts clients that pause for `pause` between a response and the next request.
    pub(crate) async fn start(
        subject: &Subject,
        clients: usize,
        pause: Duration,
    ) -> Result<Self, String> {
        let pids = subject.worker_pids().await;
        let shared = Arc::new(Shared {
            texts: Arc::clone(&subject.texts),
            stop: AtomicBool::new(false),
            sent: AtomicUsize::new(0),
        });
        let mut connected = Vec::new();
        for _ in 0..clients {
            let client = Client::connect(subject.server.address()).await;
            connected.push(client.map_err(|error| error.to_string())?);
        }
        let started = Instant::now();
        let generation = subject.serving.generation;
        let initial = Update {
            start: Duration::ZERO,
            end: Duration::ZERO,
            generations: generation..=generation,
            version: subject.serving.version.clone(),
        };
        let cpu = Cpu::now(subject.server.pid(), &pids);
        let running = connected.into_iter().enumerate().map(|(number, client)| {
            let shared = Arc::clone(&shared);
            tokio::spawn(ClientLoop { number, client, started, pause, shared }.run())
        });
        let clients = running.collect();
        Ok(Self { started, shared, clients, initial, pids, cpu })
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Lets every client finish its request and checks all responses. `updates` are all updates
    /// made meanwhile.
    pub(crate) async fn finish(
        mut self,
        subject: &Subject,
        updates: Vec<CallResult>,
    ) -> Result<Recording, String> {
        let elapsed = self.started.elapsed();
        let cpu = Cpu::now(subject.server.pid(), &self.pids) - self.cpu;
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        for client in std::mem::take(&mut self.clients) {
            answers.extend(client.await.map_err(|error| error.to_string())?);
        }
        let seen = answers.iter().map(|(request, timing)| RequestSample {
            start: request.start,
            end: request.end,
            timing: *timing,
        });
        let seen = seen.collect();
        let requests: Vec<Request> = answers.into_iter().map(|(request, _)| request).collect();
        let failed = requests.iter().filter(|request| !request.was_answered()).count();
        let history = History {
            updates: self.history_of(&updates),
            absences: Vec::new(),
            contents: subject.contents.clone(),
            sent: self.shared.sent.load(Ordering::Relaxed),
            deadline: client::DEADLINE,
            requests,
        };
        let first_seen = first_seen(&history);
        let violations = match history.check() {
            Ok(_) => Vec::new(),
            Err(all) => {
                let count = format!("{} violations:", all.len());
                let shown = all.iter().take(SHOWN_MAX).map(ToString::to_string);
                [count].into_iter().chain(shown).collect()
            }
        };
        let started = self.started;
        Ok(Recording { started, elapsed, seen, failed, updates, cpu, violations, first_seen })
    }

    fn history_of(&self, updates: &[CallResult]) -> Vec<Update> {
        let since = |at: Instant| at.saturating_duration_since(self.started);
        let committed = updates.iter().filter_map(|called| {
            let committed = called.result.as_ref().ok()?;
            Some(Update {
                start: since(called.start),
                end: since(called.end),
                generations: committed.generation..=committed.generation,
                version: committed.version.clone(),
            })
        });
        [self.initial.clone()].into_iter().chain(committed).collect()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn first_seen(history: &History) -> Vec<(u64, Duration)> {
    let mut first = std::collections::BTreeMap::new();
    for request in &history.requests {
        if let Outcome::Answered(label) = &request.outcome {
            let at = first.entry(label.generation).or_insert(request.end);
            *at = request.end.min(*at);
        }
    }
    first.into_iter().collect()
}

/// One client.
struct ClientLoop {
    number: usize,
    client: Client,
    started: Instant,
    pause: Duration,
    shared: Arc<Shared>,
}

impl ClientLoop {
    async fn run(mut self) -> Vec<(Request, Timing)> {
        let mut answers = Vec::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let sequence = answers.len();
            // Clients take turns through the texts, so that each text is sent equally often.
            let index = self.shared.sent.fetch_add(1, Ordering::Relaxed) % self.shared.texts.len();
            let body = self.shared.texts.body(index);
            let start = self.started.elapsed();
            let answer = self.client.send(Method::POST, "/embed", body).await;
            let end = self.started.elapsed();
            let timing = answer.as_ref().map_or_else(|_| Timing::default(), timing);
            let outcome = match answer {
                Ok(response) if response.status == 200 => self.label(index, &response),
                Ok(response) => Outcome::Failed(response.status, response.text()),
                Err(unanswered) => Outcome::Lost(unanswered.0),
            };
            let lost = matches!(outcome, Outcome::Lost(_));
            let client = self.number;
            answers.push((Request { client, sequence, texts: 1, start, end, outcome }, timing));
            if lost {
                let Ok(client) = Client::connect(self.client.address()).await else { break };
                self.client = client;
            }
            if self.pause > Duration::ZERO {
                time::sleep(self.pause).await;
            }
        }
        answers
    }

    fn label(&self, index: usize, response: &Response) -> Outcome {
        let (Some(generation), Some(version)) = (response.generation(), response.version()) else {
            return Outcome::Failed(
                200,
                format!("missing generation or version: {:?}", response.headers),
            );
        };
        let content = self.shared.texts.content(index, &response.body);
        Outcome::Answered(Label { generation, version: version.to_owned(), content })
    }
}

fn timing(response: &Response) -> Timing {
    let header = response.header("server-timing").unwrap_or_default();
    let part = |name: &str| {
        let found =
            header.split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix(";dur="));
        let millis: f64 = found.and_then(|millis| millis.parse().ok()).unwrap_or_default();
        Duration::from_secs_f64(millis.max(0.0) / 1e3)
    };
    Timing { queue: part("queue"), infer: part("infer") }
}
