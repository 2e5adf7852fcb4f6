//! The clients of a load.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    documents::{Asked, Write},
    load::Plan,
    requests,
    seen::Seen,
    spaces::Spaces,
};
use crate::{
    client::{Client, Unanswered},
    history::{Outcome, Request},
    random::Random,
};

/// A run stops after this many violations. Later ones follow from the first.
const VIOLATIONS_MAX: usize = 20;
/// Documents that one request of a writer changes at most.
const WRITTEN_AT_ONCE: usize = 16;
/// How many documents searches ask for. Never one: the query itself can be the best in every space.
const LIMITS: [usize; 4] = [3, 5, 10, 50];
/// Pause before a client connects again to a server that is down.
const RECONNECT: Duration = Duration::from_millis(20);

/// State that all clients share.
#[derive(Debug)]
pub(super) struct Shared {
    pub plan: Plan,
    pub address: SocketAddr,
    pub started: Instant,
    pub spaces: Arc<Spaces>,
    pub seen: Mutex<Seen>,
    pub stop: AtomicBool,
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin_write(&self, changes: &[(u64, Option<usize>)]) -> Write {
        let mut seen = self.seen();
        // Read under the lock, so that times are in the order of events.
        let now = self.now();
        seen.documents.begin(now, changes)
    }

    pub(super) fn acknowledge(&self, write: Write) {
        let mut seen = self.seen();
        let now = self.now();
        seen.documents.acknowledge(write, now);
        seen.summary.writes += 1;
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.seen().violations.len() >= VIOLATIONS_MAX
    }
}

/// A client with one connection.
pub(super) struct SearchClient {
    number: usize,
    client: Client,
    random: Random,
    shared: Arc<Shared>,
    sequence: usize,
}

impl SearchClient {
    pub(super) fn new(number: usize, client: Client, shared: &Arc<Shared>) -> Self {
        let seed = shared.plan.seed.wrapping_mul(1000).wrapping_add(number as u64);
        Self { number, client, random: Random::new(seed), shared: Arc::clone(shared), sequence: 0 }
    }

    pub(super) async fn run(self) {
        if self.number < self.shared.plan.searchers {
            self.search().await;
        } else {
            self.write().await;
        }
    }

    async fn search(mut self) {
        while !self.shared.stops() {
            let query = self.random.below_len(self.shared.spaces.count());
            let limit = LIMITS[self.random.below_len(LIMITS.len())];
            self.search_for(query, limit).await;
        }
    }

    /// Searches once and checks the answer. Returns whether there was one.
    async fn search_for(&mut self, query: usize, limit: usize) -> bool {
        let shared = Arc::clone(&self.shared);
        let (start_info, start) = {
            let mut seen = shared.seen();
            (seen.live.begin(), shared.now())
        };
        let text = shared.spaces.text(query);
        let sent = requests::search(&mut self.client, shared.plan.collection, text, limit).await;
        let lost = sent.is_err();
        let is_answered = {
            let mut seen = shared.seen();
            let end = shared.now();
            let outcome =
                seen.outcome(&shared.spaces, Asked { query, limit, times: (start, end) }, sent);
            let (client, sequence) = (self.number, self.sequence);
            self.sequence += 1;
            match outcome {
                None => {
                    seen.live.excuse(start_info);
                    true
                }
                Some(outcome)
                    if !matches!(outcome, Outcome::Answered(_)) && seen.was_down(start) =>
                {
                    seen.live.excuse(start_info);
                    seen.summary.excused += 1;
                    false
                }
                Some(outcome) => {
                    let request = Request { client, sequence, texts: 1, start, end, outcome };
                    seen.searched(start_info, request)
                }
            }
        };
        if lost {
            self.reconnect().await;
        }
        is_answered
    }

    async fn write(mut self) {
        let Plan { writers, documents, .. } = self.shared.plan;
        let is_own = |id: &u64| id % writers as u64 == (self.number % writers) as u64;
        let own: Vec<u64> = (0..documents as u64).filter(is_own).collect();
        while !self.shared.stops() && !own.is_empty() {
            let deletes = self.random.below(4) == 0;
            let count = 1 + self.random.below_len(WRITTEN_AT_ONCE);
            let mut changes = BTreeMap::new();
            for _ in 0..count {
                let text = self.random.below_len(self.shared.spaces.count());
                let id = own[self.random.below_len(own.len())];
                changes.insert(id, Some(text).filter(|_| !deletes));
            }
            let changes: Vec<(u64, Option<usize>)> = changes.into_iter().collect();
            let query = match changes[0] {
                (_, Some(text)) => text,
                (_, None) => self.random.below_len(self.shared.spaces.count()),
            };
            // The check of the answer requires that it reflects the write.
            if self.change(&changes).await && self.search_for(query, LIMITS[1]).await {
                self.shared.seen().summary.own += 1;
            }
        }
    }

    /// Writes once. Returns whether it was acknowledged.
    async fn change(&mut self, changes: &[(u64, Option<usize>)]) -> bool {
        let shared = Arc::clone(&self.shared);
        let collection = shared.plan.collection;
        let write = shared.begin_write(changes);
        let start = shared.now();
        let text = |&(id, text): &(u64, Option<usize>)| Some((id, shared.spaces.text(text?)));
        let texts: Vec<(u64, &str)> = changes.iter().filter_map(text).collect();
        let sent = if texts.is_empty() {
            let ids: Vec<u64> = changes.iter().map(|(id, _)| *id).collect();
            requests::delete(&mut self.client, collection, &ids).await
        } else {
            requests::put(&mut self.client, collection, texts).await
        };
        let lost = sent.is_err();
        let problem = match sent {
            Ok(response) if response.status == 200 => {
                shared.acknowledge(write);
                let time = shared.now() - start;
                let mut seen = shared.seen();
                seen.summary.longest_write = seen.summary.longest_write.max(time);
                return true;
            }
            Ok(response) => format!("{} {}", response.status, response.text()),
            Err(Unanswered(reason)) => format!("lost: {reason}"),
        };
        {
            let mut seen = shared.seen();
            if seen.was_down(start) {
                seen.summary.excused += 1;
            } else {
                let (number, end) = (self.number, shared.now());
                seen.violated(format!("client {number} write {start:.3?} to {end:.3?}: {problem}"));
            }
        }
        if lost {
            self.reconnect().await;
        }
        false
    }

    async fn reconnect(&mut self) {
        while !self.shared.stops() {
            match Client::connect(self.shared.address).await {
                Ok(client) => {
                    self.client = client;
                    return;
                }
                Err(_) => tokio::time::sleep(RECONNECT).await,
            }
        }
    }
}
