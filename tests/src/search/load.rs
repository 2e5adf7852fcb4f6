//! Clients that search and write without pauses, and compare every answer with an exact search.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::{
    clients::{SearchClient, Shared},
    requests,
    seen::{Seen, Summary},
    spaces::Spaces,
};
use crate::{admin::Committed, launch::Builder, processes::Signal, server::Server};

/// Documents of one request while the collection is filled.
const FILLED_AT_ONCE: usize = 250;

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The collection, which is created.
    pub collection: &'static str,
    /// The served name of its model.
    pub model: &'static str,
    /// Documents have ids below this. At first all of them exist.
    pub documents: usize,
    /// Clients that search.
    pub searchers: usize,
    /// Clients that add, replace and delete documents, and search for what they wrote.
    pub writers: usize,
    /// Decides what is written and searched.
    pub seed: u64,
}

/// Running clients, and what they saw.
#[derive(Debug)]
pub struct SearchLoad {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl SearchLoad {
    /// Creates and fills the collection, and starts the clients. The model serves `content`.
    ///
    /// # Panics
    /// Panics if the collection cannot be filled.
    pub async fn start(server: &Server, plan: Plan, spaces: Arc<Spaces>, content: &str) -> Self {
        let initial = server.status().await.model(plan.model).clone();
        let shared = Arc::new(Shared {
            plan,
            address: server.address(),
            started: Instant::now(),
            spaces,
            seen: Mutex::new(Seen::new(plan.documents)),
            stop: AtomicBool::new(false),
        });
        let mut load = Self { shared, clients: Vec::new() };
        load.record(Duration::ZERO, initial.generation, &initial.version, content);
        load.fill(server).await;
        for number in 0..plan.searchers + plan.writers {
            let client = SearchClient::new(number, server.client().await, &load.shared);
            load.clients.push(tokio::spawn(client.run()));
        }
        load
    }

    async fn fill(&self, server: &Server) {
        let Plan { collection, model, documents, .. } = self.shared.plan;
        let mut client = server.client().await;
        let created = requests::create(&mut client, collection, model).await.unwrap();
        assert_eq!(created.status, 200, "{}", created.text());
        let all: Vec<u64> = (0..documents as u64).collect();
        for ids in all.chunks(FILLED_AT_ONCE) {
            let text = |id: u64| usize::try_from(id).unwrap() % self.shared.spaces.count();
            let changes: Vec<_> = ids.iter().map(|id| (*id, Some(text(*id)))).collect();
            let write = self.shared.begin_write(&changes);
            let texts = ids.iter().map(|id| (*id, self.shared.spaces.text(text(*id))));
            let put = requests::put(&mut client, collection, texts).await.unwrap();
            assert_eq!(put.status, 200, "{}", put.text());
            self.shared.acknowledge(write);
        }
    }

    /// Returns the time since the start.
    pub fn now(&self) -> Duration {
        self.shared.now()
    }

    /// Records a commit that was called at `start`.
    pub fn committed(&self, start: Duration, committed: &Committed, content: &str) {
        self.record(start, committed.generation, &committed.version, content);
    }

    /// Records that a generation was committed by a call at `start`, unless that is known already.
    pub fn record(&self, start: Duration, generation: u64, version: &str, content: &str) {
        let mut seen = self.shared.seen();
        if generation <= seen.committed {
            return;
        }
        let generations = seen.committed + 1..=generation;
        seen.committed = generation;
        seen.state(version, content);
        let found = seen.live.committed(start, generations, version, Some(content));
        seen.violations.extend(found);
    }

    /// Returns the content of a version, if it was committed before.
    pub fn content(&self, version: &str) -> Option<String> {
        self.shared.seen().contents.get(version).cloned()
    }

    /// Kills the server. From now on, requests may have no answer.
    pub fn kill(&self, server: &Server) {
        let now = self.now();
        self.shared.seen().outages.push((now, None));
        server.signal(Signal::SIGKILL);
    }

    /// Waits until a killed server has ended, and starts one with the same state at its address.
    ///
    /// # Panics
    /// Panics if the server left an index process behind, or if the other one does not start.
    pub async fn start_again(&self, mut server: Server, builder: Builder) -> Server {
        let (home, address) = (Arc::clone(server.home()), server.address());
        // Panics if a process is left behind.
        server.wait_ignoring_staging().await;
        let mut server = builder.home(&home).spawn_at(address);
        server.ready().await.unwrap_or_else(|exited| panic!("{}", exited.show("onnxd serve")));
        let now = self.now();
        if let Some((_, end)) = self.shared.seen().outages.last_mut() {
            *end = Some(now);
        }
        server
    }

    /// Returns what was counted so far.
    pub fn summary(&self) -> Summary {
        self.shared.seen().summary.clone()
    }

    /// Returns the first violations so far, one line each.
    pub fn violations(&self) -> Vec<String> {
        self.shared.seen().violations.iter().map(ToString::to_string).collect()
    }

    /// Reports a violated guarantee.
    pub fn violated(&self, reason: &str) {
        self.shared.seen().violated(reason.to_owned());
    }

    /// Waits for `count` more answers.
    pub async fn more(&self, count: usize) {
        let goal = self.summary().searches + count;
        crate::eventually("more searches", Duration::from_secs(60), async || {
            let has_failed = !self.violations().is_empty();
            (has_failed || self.summary().searches >= goal).then_some(())
        })
        .await;
    }

    /// Stops the clients, and compares all documents of the server with those that were acknowledged.
    /// Returns all violations, one line each.
    ///
    /// # Panics
    /// Panics if the documents cannot be exported.
    pub async fn stop(&mut self, server: &Server) -> Vec<String> {
        let shared = Arc::clone(&self.shared);
        shared.stop.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            if let Err(error) = client.await {
                shared.seen().violated(format!("a client failed: {error}"));
            }
        }
        let stored = requests::export(&mut server.client().await, shared.plan.collection).await;
        let stored: BTreeMap<u64, String> =
            stored.into_iter().map(|document| (document.id, document.text)).collect();
        let now = self.now();
        let mut seen = shared.seen();
        let is_wrong = |id: &u64| {
            let stored = stored.get(id).map(|text| shared.spaces.find(text));
            let mut possible = seen.documents.possible(usize::try_from(*id).unwrap(), (now, now));
            !possible.any(|possible| possible.map(Some) == stored)
        };
        let wrong: BTreeSet<u64> = (0..shared.plan.documents as u64).filter(is_wrong).collect();
        if !wrong.is_empty() {
            seen.violated(format!("documents {wrong:?} differ from their last acknowledged write"));
        }
        let found = seen.live.finish(0);
        seen.violations.iter().chain(&found).map(ToString::to_string).collect()
    }

    /// Stops the clients and checks everything they saw.
    ///
    /// # Panics
    /// Panics if a guarantee was violated.
    pub async fn finish(mut self, server: &Server) -> Summary {
        let violations = self.stop(server).await;
        let summary = self.summary();
        assert!(violations.is_empty(), "{summary}:\n{}", violations.join("\n"));
        summary
    }
}

impl Drop for SearchLoad {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
