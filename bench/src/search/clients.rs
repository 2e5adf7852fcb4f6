//! Closed-loop clients of any route of any server, each with one connection. Requests are never
//! sent twice, and one that fails ends the run.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use e2e::client::{Client, Response};
use hyper::Method;
use tokio::{task::JoinHandle, time};

use crate::stats::{Latencies, to_f64};

/// Where requests go.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub address: SocketAddr,
    pub path: String,
    /// The version that embedded what is sent.
    pub version: Option<String>,
}

impl Route {
    pub(super) fn new(address: SocketAddr, path: impl Into<String>) -> Self {
        Self { address, path: path.into(), version: None }
    }
}

/// A request and its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Index of the body that was sent.
    pub index: usize,
    pub start: Instant,
    pub end: Instant,
    pub response: Response,
}

impl Exchange {
    pub(super) fn latency(&self) -> Duration {
        self.end - self.start
    }

    /// Returns the time of a part of the request from the `server-timing` header.
    pub(super) fn part(&self, name: &str) -> Result<Duration, String> {
        let header = self.response.header("server-timing").unwrap_or_default();
        let part =
            header.split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix(";dur="));
        let millis: Option<f64> = part.and_then(|millis| millis.parse().ok());
        let millis = millis.ok_or_else(|| format!("no time of {name} in {header:?}"))?;
        Ok(Duration::from_secs_f64(millis.max(0.0) / 1e3))
    }
}

/// Everything that clients did.
#[derive(Debug)]
pub(super) struct Exchanges {
    pub elapsed: Duration,
    pub all: Vec<Exchange>,
}

impl Exchanges {
    pub(super) fn latencies(&self) -> Latencies {
        self.all.iter().map(Exchange::latency).collect()
    }

    pub(super) fn per_second(&self) -> f64 {
        to_f64(self.all.len() as u64) / self.elapsed.as_secs_f64()
    }

    /// Returns the responses in the order of the bodies that were sent, the first for each.
    pub(super) fn by_body(&self) -> Vec<&Response> {
        let mut first = std::collections::BTreeMap::new();
        for exchange in &self.all {
            first.entry(exchange.index).or_insert(&exchange.response);
        }
        first.into_values().collect()
    }
}

/// Running clients.
pub(super) struct Clients {
    started: Instant,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Result<Vec<Exchange>, String>>>,
}

impl Clients {
    /// Starts clients that take turns through the bodies until they are stopped.
    pub(super) async fn start(
        route: &Route,
        bodies: &[Bytes],
        count: usize,
    ) -> Result<Self, String> {
        Self::start_up_to(route, bodies, count, usize::MAX).await
    }

    async fn start_up_to(
        route: &Route,
        bodies: &[Bytes],
        count: usize,
        requests: usize,
    ) -> Result<Self, String> {
        let (bodies, sent): (Arc<[Bytes]>, _) = (bodies.into(), Arc::new(AtomicUsize::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let mut connected = Vec::new();
        for _ in 0..count {
            let client = Client::connect(route.address).await;
            connected.push(client.map_err(|error| format!("{}: {error}", route.address))?);
        }
        let started = Instant::now();
        let tasks = connected.into_iter().map(|client| {
            let (route, bodies) = (route.clone(), Arc::clone(&bodies));
            let (sent, stop) = (Arc::clone(&sent), Arc::clone(&stop));
            tokio::spawn(Sending { client, route, bodies, sent, stop, requests }.run())
        });
        let tasks = tasks.collect();
        Ok(Self { started, stop, tasks })
    }

    /// Lets every client finish its request.
    ///
    /// # Errors
    /// A request failed.
    pub(super) async fn finish(mut self) -> Result<Exchanges, String> {
        let elapsed = self.started.elapsed();
        self.stop.store(true, Ordering::Relaxed);
        Ok(Exchanges { elapsed, all: self.wait().await? })
    }

    async fn wait(&mut self) -> Result<Vec<Exchange>, String> {
        let mut all = Vec::new();
        for task in std::mem::take(&mut self.tasks) {
            all.extend(task.await.map_err(|error| error.to_string())??);
        }
        Ok(all)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends bodies in turn for some time.
pub(super) async fn send_for(
    route: &Route,
    bodies: &[Bytes],
    clients: usize,
    length: Duration,
) -> Result<Exchanges, String> {
    let clients = Clients::start(route, bodies, clients).await?;
    time::sleep(length).await;
    clients.finish().await
}

/// Sends every body once.
pub(super) async fn send_all(
    route: &Route,
    bodies: &[Bytes],
    clients: usize,
) -> Result<Exchanges, String> {
    let mut clients = Clients::start_up_to(route, bodies, clients, bodies.len()).await?;
    let all = clients.wait().await?;
    Ok(Exchanges { elapsed: clients.started.elapsed(), all })
}

/// One client.
struct Sending {
    client: Client,
    route: Route,
    bodies: Arc<[Bytes]>,
    sent: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    requests: usize,
}

impl Sending {
    async fn run(mut self) -> Result<Vec<Exchange>, String> {
        let (path, mut all) = (&self.route.path, Vec::new());
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(self.route.version.as_deref().map(|version| ("x-model-version", version)));
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.sent.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests {
                break;
            }
            let index = number % self.bodies.len();
            let body = self.bodies[index].clone();
            let start = Instant::now();
            let response = self.client.send_with(Method::POST, path, &headers, body).await;
            let end = Instant::now();
            let response = response.map_err(|error| format!("{path}: {error}"))?;
            if response.status != 200 {
                return Err(format!("{path}: {}: {}", response.status, response.text()));
            }
            all.push(Exchange { index, start, end, response });
        }
        Ok(all)
    }
}
