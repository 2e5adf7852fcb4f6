//! Clients that send requests without pauses or retries and record what they saw.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    admin::{Committed, Refusal},
    client::{self, Client, Response, Unanswered},
    corpus::Corpus,
    history::{History, Label, Outcome, Request, Summary, UnloadedPeriod, Update},
    kinds::{Kind, KindClient},
    processes::Signal,
    server::Server,
};

const VIOLATIONS_SHOWN: usize = 10;

/// Running clients, and the history of their requests and of updates.
#[derive(Debug)]
pub struct Load {
    model: String,
    started: Instant,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Request>>>,
    history: History,
}

/// State shared by all clients of a load.
#[derive(Debug)]
pub(crate) struct Shared {
    corpus: Corpus,
    pub(crate) stop: AtomicBool,
    pub(crate) sent: AtomicUsize,
    pub(crate) answered: AtomicUsize,
}

impl Load {
    /// Starts `clients` clients of a model that is serving `content`.
    ///
    /// # Panics
    /// Panics if the server does not answer.
    pub async fn start(
        server: &Server,
        model: &str,
        corpus: Corpus,
        content: &str,
        clients: usize,
    ) -> Self {
        let initial = server.status().await.model(model).clone();
        let shared = Arc::new(Shared {
            corpus,
            stop: AtomicBool::new(false),
            sent: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
        });
        let mut load = Self {
            model: model.to_owned(),
            started: Instant::now(),
            shared,
            clients: Vec::new(),
            history: History { deadline: client::DEADLINE, ..History::default() },
        };
        let generation = initial.generation;
        let times = (Duration::ZERO, load.now());
        load.record(times, generation..=generation, &initial.version, content);
        for _ in 0..clients {
            load.join(server, None).await;
        }
        load
    }

    /// Adds a client that sends `texts` texts in each request.
    pub async fn join_with_lists(&mut self, server: &Server, texts: usize) {
        self.join(server, Some(texts)).await;
    }

    /// Adds a client that sends one kind of request; `known` are its answers by content.
    ///
    /// # Panics
    /// Panics if the connection is refused.
    pub async fn join_with_kind(
        &mut self,
        server: &Server,
        kind: Kind,
        known: BTreeMap<String, Vec<f32>>,
    ) {
        let client = KindClient {
            number: self.clients.len(),
            client: Client::connect(server.address()).await.unwrap(),
            kind,
            model: self.model.clone(),
            known,
            started: self.started,
            shared: Arc::clone(&self.shared),
        };
        self.clients.push(tokio::spawn(client.run()));
    }

    async fn join(&mut self, server: &Server, texts: Option<usize>) {
        let text_client = TextClient {
            number: self.clients.len(),
            client: Client::connect(server.address()).await.unwrap(),
            texts,
            model: self.model.clone(),
            started: self.started,
            shared: Arc::clone(&self.shared),
        };
        self.clients.push(tokio::spawn(text_client.run()));
    }

    /// Returns the start of the history.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Returns the time since the history started.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the number of answered requests.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Waits for `count` more answers.
    pub async fn more(&self, count: usize) {
        let goal = self.answered() + count;
        crate::eventually("more answers", Duration::from_secs(60), async || {
            (self.answered() >= goal).then_some(())
        })
        .await;
    }

    /// Updates the model and records it.
    ///
    /// # Errors
    /// Fails with the refusal.
    pub async fn update(
        &mut self,
        server: &Server,
        from: &Path,
        content: &str,
    ) -> Result<Committed, Refusal> {
        self.update_with(server, from, content, &[]).await
    }

    /// Updates the model with more arguments, such as `--load lazy`.
    ///
    /// # Errors
    /// Fails with the refusal.
    pub async fn update_with(
        &mut self,
        server: &Server,
        from: &Path,
        content: &str,
        more: &[&str],
    ) -> Result<Committed, Refusal> {
        let start = self.now();
        let committed = server.update_with(&self.model, Some(from), more).await?;
        self.committed((start, self.now()), &committed, content);
        Ok(committed)
    }

    /// Records an absence. The commit of the load must be recorded separately.
    pub fn absent(&mut self, absence: UnloadedPeriod) {
        self.history.absences.push(absence);
    }

    /// Records a commit with the times of its call and its return.
    pub fn committed(
        &mut self,
        (start, end): (Duration, Duration),
        committed: &Committed,
        content: &str,
    ) {
        let Committed { generation, version, .. } = committed;
        self.record((start, end), *generation..=*generation, version, content);
    }

    /// Sends SIGHUP, waits for a new generation, and records it.
    pub async fn reload(&mut self, server: &Server, content: &str) {
        let before = server.status().await.model(&self.model).generation;
        let start = self.now();
        server.signal(Signal::SIGHUP);
        self.follow(server, start, before, content).await;
    }

    /// Waits for a generation above `before`, which may be committed from `start` on, and records
    /// it.
    pub async fn follow(&mut self, server: &Server, start: Duration, before: u64, content: &str) {
        let after = server.generation_above(&self.model, before).await;
        let times = (start, self.now());
        self.record(times, before + 1..=after.generation, &after.version, content);
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

    /// Waits for every client to finish its request and returns the history.
    ///
    /// # Panics
    /// Panics if a client panicked.
    pub async fn stop(mut self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            self.history.requests.extend(client.await.unwrap());
        }
        self.history.sent = self.shared.sent.load(Ordering::Relaxed);
        std::mem::take(&mut self.history)
    }

    /// Stops the load and checks its history.
    ///
    /// # Panics
    /// Panics if an invariant is violated.
    pub async fn finish(self) -> Summary {
        let history = self.stop().await;
        match history.check() {
            Ok(summary) => summary,
            Err(violations) => {
                let shown: Vec<String> =
                    violations.iter().take(VIOLATIONS_SHOWN).map(ToString::to_string).collect();
                let requests = history.requests.len();
                let count = violations.len();
                panic!("{count} violations in {requests} requests:\n{}", shown.join("\n"));
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// A client that sends texts.
struct TextClient {
    number: usize,
    client: Client,
    /// Fixed number of texts per request, or `None` to vary it.
    texts: Option<usize>,
    model: String,
    started: Instant,
    shared: Arc<Shared>,
}

impl TextClient {
    async fn run(mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let sequence = requests.len();
            let indices = self.indices(sequence);
            let start = self.started.elapsed();
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
            let outcome = self.send(&indices).await;
            let request = Request {
                client: self.number,
                sequence,
                texts: indices.len(),
                start,
                end: self.started.elapsed(),
                outcome,
            };
            if matches!(request.outcome, Outcome::Answered(_)) {
                self.shared.answered.fetch_add(1, Ordering::Relaxed);
            }
            let lost = matches!(request.outcome, Outcome::Lost(_));
            requests.push(request);
            if lost {
                let Ok(client) = Client::connect(self.client.address()).await else { break };
                self.client = client;
            }
        }
        requests
    }

    /// Chooses the texts to send: three single texts, then a list that is split into several
    /// groups.
    fn indices(&self, sequence: usize) -> Vec<usize> {
        let known = self.shared.corpus.texts.len();
        let first = self.number * 5 + sequence;
        let mixed = if sequence % 4 == 3 { 2 + (self.number + sequence) % 7 } else { 1 };
        let count = self.texts.unwrap_or(mixed);
        (first..first + count).map(|index| index % known).collect()
    }

    async fn send(&mut self, indices: &[usize]) -> Outcome {
        let texts = indices.iter().map(|&index| self.shared.corpus.texts[index].as_str());
        let mut texts: Vec<&str> = texts.collect();
        let inputs = if texts.len() == 1 { json!(texts.remove(0)) } else { json!(texts) };
        let body = json!({"inputs": inputs, "model": self.model});
        match self.client.post("/embed", &body).await {
            Ok(response) if response.status == 200 => self.label(indices, &response),
            Ok(response) => Outcome::Failed(response.status, response.text()),
            Err(Unanswered(reason)) => Outcome::Lost(reason),
        }
    }

    fn label(&self, indices: &[usize], response: &Response) -> Outcome {
        let (Some(generation), Some(version)) = (response.generation(), response.version()) else {
            return Outcome::Failed(
                200,
                format!("missing generation or version: {:?}", response.headers),
            );
        };
        let content = self.shared.corpus.content(indices, &response.embeddings());
        Outcome::Answered(Label { generation, version: version.to_owned(), content })
    }
}
