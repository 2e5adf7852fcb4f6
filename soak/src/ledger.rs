//! Collects reports from clients and faults and checks each immediately. Correct results are only
//! counted; the most recent events are kept for the dump.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use e2e::{
    client,
    history::{
        Outcome, Request, Violation,
        live::{Live, StartInfo},
    },
    processes::Process,
};

use crate::{latency::Latency, rules::EventCounts};

/// Requests, and other events, kept for the dump.
const EVENTS_MAX: usize = 20_000;
/// Violations kept for the dump.
const VIOLATIONS_KEPT_MAX: usize = 200;

/// The server keeps served versions for two minutes and removes older ones after a commit.
const RECENTLY_SERVED: Duration = Duration::from_secs(200);

/// The state of a run.
#[derive(Debug)]
pub(crate) struct Ledger {
    histories: BTreeMap<&'static str, Live>,
    event_counts: EventCounts,
    /// By route and status.
    pub counts: BTreeMap<(&'static str, u16), u64>,
    /// By route, requests whose client did not wait for the answer.
    pub unknown: BTreeMap<&'static str, u64>,
    /// Excused failures, by status and reason.
    pub excused: BTreeMap<(u16, &'static str), u64>,
    pub latency: Latency,
    pub faults: BTreeMap<&'static str, u64>,
    pub committed: u64,
    /// By kind.
    pub refused: BTreeMap<String, u64>,
    /// By version, the time of its last commit.
    served: BTreeMap<String, Duration>,
    /// Workers that were sent a fatal signal. A worker counts only once.
    pub signalled: BTreeSet<Process>,
    /// Processes stopped for good.
    pub stopped: BTreeSet<Process>,
    pub kills: u64,
    pub crashes: u64,
    pub stops: u64,
    /// Workers stopped for good.
    pub hangs: u64,
    pub requests: VecDeque<(&'static str, Request)>,
    pub events: VecDeque<String>,
    pub violations: Vec<String>,
    pub violations_seen: u64,
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    start_info: StartInfo,
    event_counts: EventCounts,
    pub start: Duration,
}

/// Facts about a request other than its outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestInfo {
    pub model: &'static str,
    pub route: &'static str,
    /// Its deadline was shorter than the server's.
    pub short: bool,
}

impl Ledger {
    pub(crate) fn new(models: impl Iterator<Item = &'static str>) -> Self {
        let histories = models.map(|model| (model, Live::new(client::DEADLINE)));
        Self {
            histories: histories.collect(),
            event_counts: EventCounts::default(),
            counts: BTreeMap::new(),
            unknown: BTreeMap::new(),
            excused: BTreeMap::new(),
            latency: Latency::default(),
            faults: BTreeMap::new(),
            committed: 0,
            refused: BTreeMap::new(),
            served: BTreeMap::new(),
            signalled: BTreeSet::new(),
            stopped: BTreeSet::new(),
            kills: 0,
            crashes: 0,
            stops: 0,
            hangs: 0,
            requests: VecDeque::new(),
            events: VecDeque::new(),
            violations: Vec::new(),
            violations_seen: 0,
        }
    }

    /// The history of a model.
    pub(crate) fn history(&mut self, model: &str) -> &mut Live {
        self.histories.get_mut(model).expect("a served model")
    }

    /// Returns the current events that may excuse failures.
    pub(crate) fn event_counts(&mut self) -> &mut EventCounts {
        &mut self.event_counts
    }

    pub(crate) fn begin(&mut self, model: &str, start: Duration) -> OpenRequest {
        let event_counts = self.event_counts.clone();
        OpenRequest { start_info: self.history(model).begin(), event_counts, start }
    }

    /// Records the end of a request.
    pub(crate) fn end(&mut self, open: OpenRequest, info: RequestInfo, request: Request) {
        let status = match &request.outcome {
            Outcome::Answered(_) => Some(200),
            Outcome::Failed(status, _) => Some(*status),
            Outcome::Lost(_) => None,
        };
        match status {
            Some(status) => self.count(info.route, status),
            None => *self.unknown.entry(info.route).or_default() += 1,
        }
        let live = self.histories.get_mut(info.model).expect("a served model");
        match status.and_then(|status| open.event_counts.excuse(&self.event_counts, info, status)) {
            Some(reason) => {
                live.excuse(open.start_info);
                *self.excused.entry((status.unwrap_or_default(), reason)).or_default() += 1;
            }
            None => {
                let violations = live.end(open.start_info, &request);
                let is_unloaded = status == Some(404) && violations.is_empty();
                if is_unloaded {
                    *self.excused.entry((404, "unloaded")).or_default() += 1;
                } else if status == Some(200) {
                    self.latency.add(request.end - request.start);
                }
                self.found(info.model, violations);
            }
        }
        keep(&mut self.requests, (info.model, request));
    }

    /// Counts an answer that belongs to no model's history.
    pub(crate) fn count(&mut self, route: &'static str, status: u16) {
        *self.counts.entry((route, status)).or_default() += 1;
    }

    /// Records a violated guarantee.
    pub(crate) fn violated(&mut self, what: String) {
        self.violations_seen += 1;
        if self.violations.len() < VIOLATIONS_KEPT_MAX {
            self.violations.push(what);
        }
    }

    pub(crate) fn found(&mut self, model: &str, violations: Vec<Violation>) {
        for violation in violations {
            self.violated(format!("{model}: {violation}"));
        }
    }

    /// Records the commit of a version.
    pub(crate) fn serves(&mut self, version: &str, now: Duration) {
        self.committed += 1;
        self.served.retain(|_, at| now.saturating_sub(*at) < RECENTLY_SERVED);
        self.served.insert(version.to_owned(), now);
    }

    /// Returns whether a version was committed recently, as of the last commit.
    pub(crate) fn recently_served(&self, version: &str) -> bool {
        self.served.contains_key(version)
    }

    /// Keeps an event for the dump.
    pub(crate) fn note(&mut self, at: Duration, event: &str) {
        keep(&mut self.events, format!("{:10.3} {event}", at.as_secs_f64()));
    }

    /// Ends all histories. `unrequested` returns the number of unrequested generations by model.
    pub(crate) fn finish(&mut self, unrequested: impl Fn(&str) -> u64) {
        let histories = std::mem::take(&mut self.histories);
        for (model, live) in &histories {
            let found = live.finish(unrequested(model));
            self.found(model, found);
        }
        self.histories = histories;
    }

    /// Returns the number of generations that answered, over all models.
    pub(crate) fn generations(&self) -> usize {
        self.histories.values().map(Live::generations).sum()
    }

    /// Returns the number of generations that answered and that no call requested.
    pub(crate) fn unrequested(&self) -> u64 {
        self.histories.values().map(Live::unrequested).sum()
    }

    /// Returns the number of requests answered or abandoned.
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum::<u64>() + self.unknown.values().sum::<u64>()
    }
}

fn keep<T>(ring: &mut VecDeque<T>, one: T) {
    if ring.len() == EVENTS_MAX {
        ring.pop_front();
    }
    ring.push_back(one);
}
