//! Clients that send requests one after the other without retries. They label each answer with the
//! content that computed it, for the history checker.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::task::JoinHandle;

use super::{Limit, Reading, Rows};
use crate::{
    admin::Committed,
    client::{self, Client, Response, Unanswered},
    history::{History, Label, Outcome, Request, Summary, Update},
    server::Server,
};

const VIOLATIONS_SHOWN: usize = 5;
const PAUSE: Duration = Duration::from_millis(2);

/// A request and its expected answers by content.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The path.
    pub path: &'static str,
    /// The body, with the model's name.
    pub body: Value,
    /// By content: how to read the answer, the expected rows, and the tolerance.
    pub answers: BTreeMap<String, (Reading, Rows, Limit)>,
}

/// Running clients of one model, and the history of their requests and of updates.
#[derive(Debug)]
pub struct Clients {
    started: Instant,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Vec<Request>>>,
    history: History,
}

#[derive(Debug)]
struct Shared {
    probes: Vec<Probe>,
    stop: AtomicBool,
    sent: AtomicUsize,
    answered: AtomicUsize,
}

impl Clients {
    /// Starts `clients` clients of a model that is serving `content`.
    ///
    /// # Panics
    /// Panics if the server does not answer.
    pub async fn start(
        server: &Server,
        model: &str,
        content: &str,
        probes: Vec<Probe>,
        clients: usize,
    ) -> Self {
        let initial = server.status().await.model(model).clone();
        let (stop, sent, answered) =
            (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        let shared = Arc::new(Shared { probes, stop, sent, answered });
        let history = History { deadline: client::DEADLINE, ..History::default() };
        let mut all = Self { started: Instant::now(), shared, tasks: Vec::new(), history };
        let generation = initial.generation;
        all.record((Duration::ZERO, all.now()), generation..=generation, &initial.version, content);
        for number in 0..clients {
            let client = server.client().await;
            let one = ProbeClient {
                number,
                client,
                started: all.started,
                shared: Arc::clone(&all.shared),
            };
            all.tasks.push(tokio::spawn(one.run()));
        }
        all
    }

    /// Returns the time since the history started.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Records an update that was called at `start` and has just returned.
    pub fn committed(&mut self, start: Duration, committed: &Committed, content: &str) {
        let Committed { generation, version, .. } = committed;
        let times = (start, self.now());
        self.record(times, *generation..=*generation, version, content);
    }

    fn record(
        &mut self,
        (start, end): (Duration, Duration),
        generations: RangeInclusive<u64>,
        version: &str,
        content: &str,
    ) {
        self.history.contents.insert(version.to_owned(), content.to_owned());
        let version = version.to_owned();
        self.history.updates.push(Update { start, end, generations, version });
    }

    /// Waits for `count` more answers.
    pub async fn more(&self, count: usize) {
        let answered = || self.shared.answered.load(Ordering::Relaxed);
        let goal = answered() + count;
        crate::eventually("more answers", Duration::from_secs(60), async || {
            (answered() >= goal).then_some(())
        })
        .await;
    }

    /// Waits for every client to finish its request, then checks the history.
    ///
    /// # Errors
    /// Describes the violations.
    ///
    /// # Panics
    /// Panics if a client panicked.
    pub async fn finish(mut self) -> Result<Summary, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            self.history.requests.extend(task.await.unwrap());
        }
        self.history.sent = self.shared.sent.load(Ordering::Relaxed);
        self.history.check().map_err(|violations| {
            let shown: Vec<String> =
                violations.iter().take(VIOLATIONS_SHOWN).map(ToString::to_string).collect();
            let requests = self.history.requests.len();
            format!("{} violations in {requests} requests:\n{}", violations.len(), shown.join("\n"))
        })
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// One client.
struct ProbeClient {
    number: usize,
    client: Client,
    started: Instant,
    shared: Arc<Shared>,
}

impl ProbeClient {
    async fn run(mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let (client, sequence) = (self.number, requests.len());
            let index = (self.number * 7 + sequence) % self.shared.probes.len();
            let start = self.started.elapsed();
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
            let outcome = self.shared.probes[index].send(&mut self.client).await;
            let is_lost = matches!(outcome, Outcome::Lost(_));
            let end = self.started.elapsed();
            requests.push(Request { client, sequence, texts: 1, start, end, outcome });
            self.shared.answered.fetch_add(usize::from(!is_lost), Ordering::Relaxed);
            // Leaves CPU time for checking the next version.
            tokio::time::sleep(PAUSE).await;
            if is_lost {
                let Ok(client) = Client::connect(self.client.address()).await else { break };
                self.client = client;
            }
        }
        requests
    }
}

impl Probe {
    async fn send(&self, client: &mut Client) -> Outcome {
        match client.post(self.path, &self.body).await {
            Ok(response) if response.status == 200 => self.label(&response),
            Ok(response) => Outcome::Failed(response.status, response.text()),
            Err(Unanswered(reason)) => Outcome::Lost(reason),
        }
    }

    fn label(&self, response: &Response) -> Outcome {
        let (Some(generation), Some(version)) = (response.generation(), response.version()) else {
            return Outcome::Failed(
                200,
                format!("missing generation or version: {:?}", response.headers),
            );
        };
        let content = self.content(&response.json());
        Outcome::Answered(Label { generation, version: version.to_owned(), content })
    }

    /// Returns the content that computed an answer.
    fn content(&self, answer: &Value) -> Result<String, String> {
        let mut reasons = Vec::new();
        for (content, (reading, reference, limit)) in &self.answers {
            match reading.rows(answer).and_then(|rows| limit.check(&rows, reference)) {
                Ok(()) => return Ok(content.clone()),
                Err(reason) => reasons.push(format!("{content}: {reason}")),
            }
        }
        Err(format!("{} {:.80}: matches no content: {}", self.path, self.body, reasons.join("; ")))
    }
}
