//! The same documents and queries in onnxd and in two services in Python that embed with ONNX
//! Runtime: one keeps documents in PostgreSQL with pgvector, the other in Chroma. All run at once,
//! and are measured in turn.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use e2e::{
    client::Client,
    processes::{self, Memory},
    server::Server,
};
use serde_json::{Value, json};
use tokio::time;

use crate::{
    options::SearchOptions,
    report::{Report, Table, fixed, print_line},
    search::{
        HITS, Prepared,
        clients::{Route, send_all, send_for},
        collection::{BATCH, Collection},
        documents::{Document, lines},
        filling::{Filled, TURN},
        sizes,
    },
    service::{Script, Service},
    stats::{Latencies, ratio, to_f64},
    subject::ModelPair,
};

/// Numbers of clients that search.
const CLIENTS: [usize; 2] = [1, 8];
/// Databases that `bench/search/service.py` knows.
const DATABASES: [&str; 2] = ["pgvector", "chroma"];
/// Maximum time to load all documents into a database.
const LOAD_MAX: Duration = Duration::from_secs(1800);
const POLL: Duration = Duration::from_secs(1);

/// What is compared.
pub(super) struct Setting<'a> {
    pub server: &'a Server,
    pub pair: &'a ModelPair,
    pub documents: &'a [Document],
    pub options: &'a SearchOptions,
}

/// One of the servers.
struct Peer {
    name: &'static str,
    pid: i32,
    searching: Route,
    searches: Vec<Bytes>,
    /// For each of [`CLIENTS`].
    found: [Found; CLIENTS.len()],
}

/// All searches by one number of clients.
#[derive(Debug, Default)]
struct Found {
    latencies: Vec<Duration>,
    seconds: f64,
}

impl Found {
    fn per_second(&self) -> f64 {
        to_f64(self.latencies.len() as u64) / self.seconds
    }

    fn latencies(&self) -> Latencies {
        self.latencies.iter().copied().collect()
    }
}

impl Setting<'_> {
    /// Measures adding a part of the documents, then searching in all.
    pub(super) async fn run(&self, prepared: &Prepared, report: &mut Report) -> Result<(), String> {
        let Prepared { collection, filled, queries, files } = prepared;
        let mut services = Vec::new();
        for name in DATABASES {
            let python = self.options.python.clone();
            let script = Script { python, path: "bench/search/service.py", argument: Some(name) };
            services.push(Service::start(script, &self.pair.directories[0]).await?);
        }
        self.add(&services, report).await?;
        self.load(&services, filled, files).await?;
        let body = |query: &String| json!({"query": query, "limit": HITS}).to_string().into();
        let bodies: Vec<Bytes> = queries.texts.iter().map(body).collect();
        let mut peers = vec![Peer {
            name: "onnxd",
            pid: self.server.pid(),
            searching: collection.searching(),
            searches: collection.searches(&queries.texts),
            found: Default::default(),
        }];
        for (name, service) in DATABASES.into_iter().zip(&services) {
            peers.push(Peer {
                name,
                pid: service.pid()?,
                searching: Route::new(service.address(), "/search"),
                searches: bodies.clone(),
                found: Default::default(),
            });
        }
        let numpy = queries.numpy(&filled.vectors, files, &self.options.python)?;
        let exact = numpy.search(HITS).await?;
        let mut recalls = Vec::new();
        for peer in &peers {
            // Warms up as well.
            let sent = send_all(&peer.searching, &peer.searches, CLIENTS[1]).await?;
            recalls.push(sizes::recall(prepared, &exact, &sent)?);
        }
        for round in 0..self.options.rounds {
            for (step, count) in CLIENTS.into_iter().enumerate() {
                for turn in 0..peers.len() {
                    let index = (turn + round) % peers.len();
                    let peer = &mut peers[index];
                    let length = self.options.phase();
                    let sent = send_for(&peer.searching, &peer.searches, count, length).await?;
                    let found = &mut peer.found[step];
                    found.latencies.extend(sent.all.iter().map(|one| one.latency()));
                    found.seconds += sent.elapsed.as_secs_f64();
                }
            }
        }
        conclude(&peers, &recalls, filled.vectors.len(), report);
        for mut service in services {
            service.stop().await?;
        }
        Ok(())
    }

    /// Adds the same documents to empty collections, in turn.
    async fn add(&self, services: &[Service], report: &mut Report) -> Result<(), String> {
        let own = Collection::create(self.server, self.pair.model, "added").await?;
        let count = self.options.ingested.min(self.documents.len());
        let mut seconds = [0.0; 1 + DATABASES.len()];
        for (turn, some) in self.documents[..count].chunks(TURN).enumerate() {
            for step in 0..seconds.len() {
                let index = (step + turn) % seconds.len();
                let sent = match index.checked_sub(1) {
                    None => (own.adding(), Collection::additions(some)),
                    Some(index) => {
                        let route = Route::new(services[index].address(), "/documents");
                        (route, some.chunks(BATCH).map(list).collect())
                    }
                };
                let sent = send_all(&sent.0, &sent.1, self.options.clients).await?;
                seconds[index] += sent.elapsed.as_secs_f64();
            }
        }
        let clients = self.options.clients;
        let mut table = Table::new(format!("adding {count} documents, {clients} clients"));
        for (name, taken) in ["onnxd"].into_iter().chain(DATABASES).zip(seconds) {
            let rate = to_f64(count as u64) / taken;
            let cells = [("per second", rate), ("onnxd to it", taken / seconds[0])];
            table.row(name, cells.map(|(head, value)| (head, fixed(value, 2))));
        }
        table.print();
        report.figures("peers_adding_seconds", seconds);
        Ok(())
    }

    /// Gives the services all documents with their embeddings. Embedding them once more would only
    /// take time.
    async fn load(
        &self,
        services: &[Service],
        filled: &Filled,
        files: &Path,
    ) -> Result<(), String> {
        let (documents, vectors) = (files.join("documents.jsonl"), files.join("all-vectors"));
        let name = |error: std::io::Error| format!("{}: {error}", documents.display());
        fs::write(&documents, lines(self.documents)).map_err(name)?;
        filled.vectors.write(&vectors)?;
        let body = json!({"documents": documents, "vectors": vectors});
        for (name, service) in DATABASES.into_iter().zip(services) {
            let client = Client::connect(service.address()).await;
            let mut client = client.map_err(|error| error.to_string())?;
            let failed = |error: &dyn std::fmt::Display| format!("{name}: {error}");
            client.post("/load", &body).await.map_err(|error| failed(&error))?;
            let start = Instant::now();
            loop {
                time::sleep(POLL).await;
                let answer = client.get("/loading").await.map_err(|error| failed(&error))?;
                match answer.json() {
                    Value::Object(state) if state["seconds"].is_number() => {
                        print_line(&format!("{name}: loaded in {} s", state["seconds"]));
                        break;
                    }
                    Value::Object(state) if state["error"].is_null() => {}
                    other => return Err(failed(&other)),
                }
                if start.elapsed() > LOAD_MAX {
                    return Err(failed(&"loading the documents takes too long"));
                }
            }
        }
        Ok(())
    }
}

fn list(documents: &[Document]) -> Bytes {
    Value::from(documents.iter().map(Document::json).collect::<Vec<_>>()).to_string().into()
}

/// Returns the PSS of a process and its descendants, in megabytes.
fn memory(pid: i32) -> f64 {
    let descendants = processes::descendants(pid).into_iter().map(|process| process.pid);
    let pss = |pid| to_f64(Memory::read(pid).pss);
    [pid].into_iter().chain(descendants).map(pss).sum::<f64>() / 1e6
}

fn conclude(peers: &[Peer], recalls: &[f64], size: usize, report: &mut Report) {
    let own = &peers[0];
    for (step, clients) in CLIENTS.into_iter().enumerate() {
        let mut table = Table::new(format!("{size} documents, {clients} clients"));
        for (peer, recall) in peers.iter().zip(recalls) {
            let (found, base) = (&peer.found[step], &own.found[step]);
            let (latencies, best) = (found.latencies(), base.latencies());
            let cells = [
                ("per second", fixed(found.per_second(), 0)),
                ("onnxd to it", fixed(base.per_second() / found.per_second(), 2)),
                ("p50 to onnxd", fixed(ratio(latencies.median(), best.median()), 2)),
                ("p99 to onnxd", fixed(ratio(latencies.p99(), best.p99()), 2)),
                ("recall", fixed(*recall, 3)),
                ("MB", fixed(memory(peer.pid), 0)),
            ];
            let [p50, p99, _] = latencies.cells();
            let (rates, others) = cells.split_at(2);
            table.row(peer.name, [rates, &[p50, p99], others].concat());
            let figures = json!({
                "per_second": found.per_second(),
                "latency": latencies.summary(),
                "recall": recall,
            });
            report.figures(&format!("{}_{clients}", peer.name), figures);
        }
        table.print();
        for peer in &peers[1..] {
            let what = format!("{clients} clients: searches per second to {}", peer.name);
            let rate = own.found[step].per_second() / peer.found[step].per_second();
            report.at_least(&what, rate, 1.0, "x");
        }
    }
}
