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
//! [`live`] checks them while it happens. [`History`] holds a history that has ended, and replays
//! it there.

pub mod live;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    ops::RangeInclusive,
    time::Duration,
};

use live::Live;

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

    /// Everything that happened, in order.
    fn events(&self) -> Vec<(Duration, Event)> {
        let mut events = Vec::with_capacity(self.requests.len() * 2);
        for (place, request) in self.requests.iter().enumerate() {
            events.push((request.start, Event::Begin(place)));
            events.push((request.end, Event::End(place)));
        }
        for (place, update) in self.updates.iter().enumerate() {
            events.push((update.end, Event::Committed(place)));
        }
        for Absence { unload, load } in &self.absences {
            events.push((unload.0, Event::UnloadAsked));
            events.push((unload.1, Event::Unloaded));
            events.push((load.0, Event::LoadAsked));
            events.push((load.1, Event::Loaded));
        }
        events.sort_unstable();
        events
    }

    /// Violations that the live checker finds.
    fn replay(&self) -> Vec<Violation> {
        let mut live = Live::new(self.deadline);
        for (version, content) in &self.contents {
            // The first word about a version contradicts nothing.
            live.version(version, content);
        }
        let (mut found, mut begun) = (Vec::new(), BTreeMap::new());
        for (_, event) in self.events() {
            match event {
                Event::Begin(place) => {
                    begun.insert(place, live.begin());
                }
                Event::End(place) => {
                    let begun = begun.remove(&place).expect("a request ends after its begin");
                    found.extend(live.end(begun, &self.requests[place]));
                }
                Event::Committed(place) => {
                    let Update { start, generations, version, .. } = &self.updates[place];
                    found.extend(live.committed(*start, generations.clone(), version, None));
                }
                Event::UnloadAsked => live.unload_asked(),
                Event::Unloaded => live.unloaded(true),
                Event::LoadAsked => live.load_asked(),
                Event::Loaded => live.loaded(),
            }
        }
        found.extend(live.finish(0));
        found
    }

    /// The live checker learns a version's content from its first answer; here all are known.
    fn unknown_versions(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        self.labels()
            .filter(|(_, label)| !self.contents.contains_key(&label.version))
            .filter(|(_, label)| seen.insert(&label.version))
            .map(|(request, _)| format!("{request}; but that version is unknown"))
            .collect()
    }

    /// Requests of a client that are missing or recorded twice.
    fn gaps(&self) -> Vec<String> {
        let mut in_order: Vec<&Request> = self.requests.iter().collect();
        in_order.sort_by_key(|request| (request.client, request.sequence));
        let mut next: BTreeMap<usize, usize> = BTreeMap::new();
        let mut reasons = Vec::new();
        for request in in_order {
            let expected = next.entry(request.client).or_insert(0);
            if request.sequence != *expected {
                reasons.push(format!("{request}; but request {expected} was to come"));
            }
            *expected = request.sequence + 1;
        }
        reasons
    }

    fn conservation(&self) -> Option<String> {
        let (sent, recorded) = (self.sent, self.requests.len());
        (sent != recorded).then(|| format!("{sent} requests were sent, {recorded} ended"))
    }
}

/// Something that happened; the numbers are places in the history. Simultaneous events are taken in
/// this order: nothing is before anything else that it need not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Begin(usize),
    UnloadAsked,
    Unloaded,
    LoadAsked,
    End(usize),
    Committed(usize),
    Loaded,
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
