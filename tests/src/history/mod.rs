//! A record of what clients saw, and its invariants. Uses no sockets and no clock: times are
//! durations since the start of the history.
//!
//! - I1 label truth: an embedding comes from the content that the named generation maps to.
//! - I2 freshness: a request that starts after an update returned is answered by that generation or
//!   a newer one.
//! - I3 order: no request is answered by an older generation than a request that ended before it
//!   started. This is stronger than per-client monotonicity.
//! - I4 no inventions: no generation answers before the update that created it was called.
//! - I5 answered: every request is answered exactly once, with 200, within its deadline. While the
//!   model is unloaded, every request is answered with 404; at other times none is.
//! - I6 conservation: every sent request was recorded.
//!
//! [`live`] checks them as events arrive. [`History`] records a finished run and replays it there.

pub mod live;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    ops::RangeInclusive,
    time::Duration,
};

use live::Live;

/// All events of one model.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Requests and their outcomes.
    pub requests: Vec<Request>,
    /// Commits, including the initial generation.
    pub updates: Vec<Update>,
    /// Times when the model was unloaded.
    pub absences: Vec<UnloadedPeriod>,
    /// Content name by version.
    pub contents: BTreeMap<String, String>,
    /// Number of sent requests, counted separately.
    pub sent: usize,
    /// Maximum duration of a request.
    pub deadline: Duration,
}

/// A request as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's number.
    pub client: usize,
    /// Sequence number within the client, from 0.
    pub sequence: usize,
    /// Number of texts.
    pub texts: usize,
    /// Time when it was sent.
    pub start: Duration,
    /// Time when its outcome was known.
    pub end: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200.
    Answered(Label),
    /// Another status.
    Failed(u16, String),
    /// No answer.
    Lost(String),
}

/// The stated generation and version of an answer, and its actual content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// `x-model-generation`.
    pub generation: u64,
    /// `x-model-version`.
    pub version: String,
    /// The content that produced all embeddings, or why there is none.
    pub content: Result<String, String>,
}

/// A committed update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Time of the call.
    pub start: Duration,
    /// Time when the commit was known.
    pub end: Duration,
    /// The created generations. An update that joined several calls may have created any of these.
    pub generations: RangeInclusive<u64>,
    /// The version of the last generation.
    pub version: String,
}

/// A period in which the model was unloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnloadedPeriod {
    /// Times of the unload's call and return.
    pub unload: (Duration, Duration),
    /// Times of the load's call and return.
    pub load: (Duration, Duration),
}

/// Statistics of a valid history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of answered requests.
    pub answered: usize,
    /// Number of texts in them.
    pub texts: usize,
    /// Number of distinct generations that answered.
    pub generations: usize,
    /// Longest duration of a request.
    pub longest: Duration,
}

/// An invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invariant {
    /// I1.
    LabelTruth,
    /// I2.
    Freshness,
    /// I3.
    Order,
    /// I4.
    NoInventions,
    /// I5.
    Answered,
    /// I6.
    Conservation,
}

/// A violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The violated invariant.
    pub invariant: Invariant,
    /// Where and why.
    pub reason: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.reason)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, sequence, texts, start, end, outcome } = self;
        write!(f, "client {client} request {sequence} ({texts} texts) {start:.3?} to {end:.3?}: ")?;
        match outcome {
            Outcome::Answered(Label { generation, version, content }) => {
                write!(f, "generation {generation}, version {version:.8}, content {content:?}")
            }
            Outcome::Failed(status, body) => write!(f, "{status} {body}"),
            Outcome::Lost(reason) => write!(f, "lost: {reason}"),
        }
    }
}

impl Request {
    /// Returns whether it was answered with 200.
    pub fn was_answered(&self) -> bool {
        self.label().is_some()
    }

    fn label(&self) -> Option<&Label> {
        match &self.outcome {
            Outcome::Answered(label) => Some(label),
            _ => None,
        }
    }
}

impl History {
    /// Checks all invariants.
    ///
    /// # Errors
    /// Returns every violation.
    pub fn check(&self) -> Result<Summary, Vec<Violation>> {
        let mut violations = self.replay();
        for (invariant, reasons) in [
            (Invariant::LabelTruth, self.unknown_versions()),
            (Invariant::Answered, self.gaps()),
            (Invariant::Conservation, self.conservation().into_iter().collect()),
        ] {
            violations.extend(reasons.into_iter().map(|reason| Violation { invariant, reason }));
        }
        if violations.is_empty() { Ok(self.summary()) } else { Err(violations) }
    }

    fn summary(&self) -> Summary {
        let generations: HashSet<u64> = self.labels().map(|(_, label)| label.generation).collect();
        Summary {
            answered: self.labels().count(),
            texts: self.labels().map(|(request, _)| request.texts).sum(),
            generations: generations.len(),
            longest: self.requests.iter().map(|r| r.end - r.start).max().unwrap_or_default(),
        }
    }

    fn labels(&self) -> impl Iterator<Item = (&Request, &Label)> {
        self.requests.iter().filter_map(|request| Some((request, request.label()?)))
    }

    /// Returns all events in order.
    fn events(&self) -> Vec<(Duration, Event)> {
        let mut events = Vec::with_capacity(self.requests.len() * 2);
        for (index, request) in self.requests.iter().enumerate() {
            events.push((request.start, Event::Begin(index)));
            events.push((request.end, Event::End(index)));
        }
        for (index, update) in self.updates.iter().enumerate() {
            events.push((update.end, Event::Committed(index)));
        }
        for UnloadedPeriod { unload, load } in &self.absences {
            events.push((unload.0, Event::UnloadCalled));
            events.push((unload.1, Event::Unloaded));
            events.push((load.0, Event::LoadCalled));
            events.push((load.1, Event::Loaded));
        }
        events.sort_unstable();
        events
    }

    /// Returns the violations that the live checker finds.
    fn replay(&self) -> Vec<Violation> {
        let mut live = Live::new(self.deadline);
        for (version, content) in &self.contents {
            // The first statement about a version cannot be contradicted.
            live.version(version, content);
        }
        let (mut found, mut start_info) = (Vec::new(), BTreeMap::new());
        for (_, event) in self.events() {
            match event {
                Event::Begin(index) => {
                    start_info.insert(index, live.begin());
                }
                Event::End(index) => {
                    let start_info =
                        start_info.remove(&index).expect("a request starts before it ends");
                    found.extend(live.end(start_info, &self.requests[index]));
                }
                Event::Committed(index) => {
                    let Update { start, generations, version, .. } = &self.updates[index];
                    found.extend(live.committed(*start, generations.clone(), version, None));
                }
                Event::UnloadCalled => live.unload_called(),
                Event::Unloaded => live.unloaded(true),
                Event::LoadCalled => live.load_called(),
                Event::Loaded => live.loaded(),
            }
        }
        found.extend(live.finish(0));
        found
    }

    /// Finds unknown versions. The live checker learns contents from answers; here all are known.
    fn unknown_versions(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        self.labels()
            .filter(|(_, label)| !self.contents.contains_key(&label.version))
            .filter(|(_, label)| seen.insert(&label.version))
            .map(|(request, _)| format!("{request}; but this version is unknown"))
            .collect()
    }

    /// Finds missing and duplicate requests.
    fn gaps(&self) -> Vec<String> {
        let mut in_order: Vec<&Request> = self.requests.iter().collect();
        in_order.sort_by_key(|request| (request.client, request.sequence));
        let mut next: BTreeMap<usize, usize> = BTreeMap::new();
        let mut reasons = Vec::new();
        for request in in_order {
            let expected = next.entry(request.client).or_insert(0);
            if request.sequence != *expected {
                reasons.push(format!("{request}; but expected request {expected}"));
            }
            *expected = request.sequence + 1;
        }
        reasons
    }

    fn conservation(&self) -> Option<String> {
        let (sent, recorded) = (self.sent, self.requests.len());
        (sent != recorded).then(|| format!("{sent} requests were sent, {recorded} recorded"))
    }
}

/// An event; numbers are indices into the history. The variants are in the order in which
/// simultaneous events are taken: the one that forbids the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Begin(usize),
    UnloadCalled,
    Unloaded,
    LoadCalled,
    End(usize),
    Committed(usize),
    Loaded,
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
