//! What clients saw, and the invariants that it must satisfy. No socket and no clock: times come
//! in as durations since the history's begin.
//!
//! - I1 label truth: the embedding is that of the content which the named generation maps to.
//! - I2 freshness: a request that begins after an update has returned is answered by it or newer.
//! - I3 order: no request is answered by an older generation than one that ended before it began,
//!   which is more than that no client sees the number fall.
//! - I4 no inventions: a generation is not seen before the update that made it began.
//! - I5 every request is answered exactly once, with 200, within its deadline.
//!   Only while the model is unloaded, all are answered 404, and nothing else is.
//! - I6 conservation: what was sent is what was recorded.
//!
//! [`History`] has all of it and looks back; [`live`] looks while it happens.

pub mod live;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    ops::RangeInclusive,
    time::Duration,
};

/// Everything that happened to one model.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What clients saw.
    pub requests: Vec<Request>,
    /// What was committed, the initial generation included.
    pub updates: Vec<Update>,
    /// When it was unloaded.
    pub absences: Vec<Absence>,
    /// By version, the name of its content.
    pub contents: BTreeMap<String, String>,
    /// How many requests were sent, counted apart.
    pub sent: usize,
    /// How long a request may take.
    pub deadline: Duration,
}

/// What one client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asked.
    pub client: usize,
    /// Its requests are numbered from 0.
    pub sequence: usize,
    /// How many texts were sent.
    pub texts: usize,
    /// When it was sent.
    pub start: Duration,
    /// When its fate was known.
    pub end: Duration,
    /// Its fate.
    pub outcome: Outcome,
}

/// A request's fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200.
    Answered(Label),
    /// Another status.
    Failed(u16, String),
    /// No answer.
    Lost(String),
}

/// What an answer says about itself, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// `x-model-generation`.
    pub generation: u64,
    /// `x-model-version`.
    pub version: String,
    /// The one content that all embeddings are of, or why there is none.
    pub content: Result<String, String>,
}

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// When it was asked for.
    pub start: Duration,
    /// When it was known to be committed.
    pub end: Duration,
    /// What it made. One that joined several requests made one of these or all.
    pub generations: RangeInclusive<u64>,
    /// What the last of them maps to.
    pub version: String,
}

/// A time in which the model was unloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absence {
    /// When the unload was asked for, and when it had returned.
    pub unload: (Duration, Duration),
    /// When it was asked for again, and when it served again.
    pub load: (Duration, Duration),
}

impl Absence {
    fn may_be_felt_by(&self, request: &Request) -> bool {
        request.end >= self.unload.0 && request.start <= self.load.1
    }

    fn must_be_felt_by(&self, request: &Request) -> bool {
        request.start > self.unload.1 && request.end < self.load.0
    }
}

/// A history that is as it must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Answered requests.
    pub answered: usize,
    /// Texts in them.
    pub texts: usize,
    /// Different generations that answered.
    pub generations: usize,
    /// The longest that a request took.
    pub longest: Duration,
}

/// Which invariant does not hold.
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

/// An invariant that does not hold, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
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
    /// Whether it was answered with 200.
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
    /// Every violation.
    pub fn check(&self) -> Result<Summary, Vec<Violation>> {
        let violations: Vec<Violation> = [
            (Invariant::LabelTruth, self.label_truth()),
            (Invariant::Freshness, self.freshness()),
            (Invariant::Order, self.order()),
            (Invariant::NoInventions, self.no_inventions()),
            (Invariant::Answered, self.answered()),
            (Invariant::Conservation, self.conservation()),
        ]
        .into_iter()
        .flat_map(|(invariant, reasons)| {
            reasons.into_iter().map(move |reason| Violation { invariant, reason })
        })
        .collect();
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

    fn label_truth(&self) -> Vec<String> {
        let mut versions: BTreeMap<u64, &str> = BTreeMap::new();
        for update in &self.updates {
            versions.insert(*update.generations.end(), &update.version);
        }
        let mut reasons = Vec::new();
        for (request, label) in self.labels() {
            let version = *versions.entry(label.generation).or_insert(&label.version);
            if version != label.version {
                reasons.push(format!("{request}; but that generation is {version:.8}"));
            }
            let content = self.contents.get(&label.version);
            if content.is_none() || content != label.content.as_ref().ok() {
                reasons.push(format!("{request}; but that version is {content:?}"));
            }
        }
        reasons
    }

    fn freshness(&self) -> Vec<String> {
        let mut returned: Vec<&Update> = self.updates.iter().collect();
        returned.sort_by_key(|update| update.end);
        let mut least = Newest::default();
        self.by_start(|request, generation| {
            let before = returned.iter().take_while(|update| update.end < request.start);
            let (passed, newest) = least.advance(before.count(), |place| {
                (*returned[place].generations.end(), format!("{:?}", returned[place]))
            });
            (generation < passed).then(|| format!("{request}; but before it {newest}"))
        })
    }

    fn order(&self) -> Vec<String> {
        let mut ended: Vec<(&Request, u64)> =
            self.labels().map(|(request, label)| (request, label.generation)).collect();
        ended.sort_by_key(|(request, _)| request.end);
        let mut least = Newest::default();
        self.by_start(|request, generation| {
            let before = ended.partition_point(|(other, _)| other.end < request.start);
            let (passed, newest) =
                least.advance(before, |place| (ended[place].1, ended[place].0.to_string()));
            (generation < passed).then(|| format!("{request}; but before it {newest}"))
        })
    }

    /// Calls `check` with every answered request in the order in which they began.
    fn by_start(&self, mut check: impl FnMut(&Request, u64) -> Option<String>) -> Vec<String> {
        let mut begun: Vec<(&Request, &Label)> = self.labels().collect();
        begun.sort_by_key(|(request, _)| request.start);
        begun.into_iter().filter_map(|(request, label)| check(request, label.generation)).collect()
    }

    fn no_inventions(&self) -> Vec<String> {
        let issued = |request: &Request, generation: u64| {
            let made = |update: &&Update| update.generations.contains(&generation);
            self.updates.iter().filter(made).any(|update| update.start <= request.end)
        };
        self.labels()
            .filter(|(request, label)| !issued(request, label.generation))
            .map(|(request, _)| format!("{request}; but nothing had made that generation"))
            .collect()
    }

    fn answered(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut next: BTreeMap<usize, usize> = BTreeMap::new();
        let mut in_order: Vec<&Request> = self.requests.iter().collect();
        in_order.sort_by_key(|request| (request.client, request.sequence));
        for request in in_order {
            let expected = next.entry(request.client).or_insert(0);
            if request.sequence != *expected {
                reasons.push(format!("{request}; but request {expected} was to come"));
            }
            *expected = request.sequence + 1;
            let absences = &self.absences;
            if matches!(request.outcome, Outcome::Failed(404, _)) {
                if !absences.iter().any(|absence| absence.may_be_felt_by(request)) {
                    reasons.push(format!("{request}; but it was not unloaded"));
                }
            } else if absences.iter().any(|absence| absence.must_be_felt_by(request)) {
                reasons.push(format!("{request}; but it was unloaded"));
            } else if request.label().is_none() {
                reasons.push(request.to_string());
            } else if request.end - request.start > self.deadline {
                reasons.push(format!("{request}; later than {:?}", self.deadline));
            }
        }
        reasons
    }

    fn conservation(&self) -> Vec<String> {
        let recorded = self.requests.len();
        let complaint = format!("{} requests were sent, {recorded} ended", self.sent);
        if self.sent == recorded { Vec::new() } else { vec![complaint] }
    }
}

/// The highest generation among a growing number of events, and which event had it.
#[derive(Debug, Default)]
struct Newest {
    taken: usize,
    generation: u64,
    event: String,
}

impl Newest {
    fn advance(&mut self, count: usize, event: impl Fn(usize) -> (u64, String)) -> (u64, &str) {
        while self.taken < count {
            let (generation, name) = event(self.taken);
            if generation > self.generation {
                (self.generation, self.event) = (generation, name);
            }
            self.taken += 1;
        }
        (self.generation, &self.event)
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
