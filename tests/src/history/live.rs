//! The checker. It looks at each request once and forgets it, so memory grows only with the number
//! of generations. The soak feeds it live; [`super::History`] replays a recorded history.
//!
//! Callers report events in order. A starting request captures the generation that its answer must
//! not fall below; earlier requests are not remembered.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc, time::Duration};

use super::{Invariant, Label, Outcome, Request, Violation};

/// The history of one model so far.
#[derive(Debug)]
pub struct Live {
    deadline: Duration,
    /// The newest generation that an answer named or an update returned, and that event.
    newest: Newest,
    /// By generation that a returned update created, its version if known.
    created: BTreeMap<u64, Option<String>>,
    seen: BTreeMap<u64, FirstAnswer>,
    contents: BTreeMap<String, Content>,
    presence: Presence,
    in_flight: u64,
}

/// The lower bound for later requests, with its reason.
#[derive(Clone, Debug)]
struct Newest {
    generation: u64,
    invariant: Invariant,
    event: Arc<str>,
}

/// The first answer of a generation.
#[derive(Debug)]
struct FirstAnswer {
    version: String,
    end: Duration,
    request: String,
}

/// The known content of a version.
#[derive(Debug)]
struct Content {
    name: String,
    /// True if a caller stated it; otherwise it comes from an answer.
    announced: bool,
    request: String,
}

/// Whether the model is loaded, as far as clients can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Presence {
    /// From the call of an unload to the return of the next load.
    may_be_unloaded: bool,
    /// From the return of an unload to the call of the next load.
    is_unloaded: bool,
    /// Number of changes to the fields above.
    changes: u64,
}

/// Facts captured when a request starts.
#[derive(Debug)]
pub struct StartInfo {
    floor: Newest,
    presence: Presence,
}

impl Live {
    /// Creates an empty history. Requests must be answered within `deadline`.
    pub fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            newest: Newest { generation: 0, invariant: Invariant::Order, event: "".into() },
            created: BTreeMap::new(),
            seen: BTreeMap::new(),
            contents: BTreeMap::new(),
            presence: Presence::default(),
            in_flight: 0,
        }
    }

    /// States the content of a version.
    pub fn version(&mut self, version: &str, content: &str) -> Vec<Violation> {
        let announced =
            |name: &str| Content { name: name.to_owned(), announced: true, request: String::new() };
        let before = self.contents.insert(version.to_owned(), announced(content));
        let wrong = before.filter(|before| before.name != content);
        let violation =
            |before: Content| format!("{}; but version {version:.8} is {content}", before.request);
        violations(Invariant::LabelTruth, wrong.map(violation))
    }

    /// Records the start of a request.
    pub fn begin(&mut self) -> StartInfo {
        self.in_flight += 1;
        StartInfo { floor: self.newest.clone(), presence: self.presence }
    }

    /// Records the end of a request whose outcome says nothing about the model: the client left, or
    /// the server was overloaded.
    pub fn excuse(&mut self, start_info: StartInfo) {
        drop(start_info);
        self.in_flight -= 1;
    }

    /// Records the end of a request.
    pub fn end(&mut self, start_info: StartInfo, request: &Request) -> Vec<Violation> {
        self.in_flight -= 1;
        let mut found = self.answered(start_info.presence, request);
        let Outcome::Answered(label) = &request.outcome else { return found };
        found.extend(self.label_truth(request, label));
        let Newest { generation: floor, invariant, event } = &start_info.floor;
        if label.generation < *floor {
            found.push(violation(*invariant, format!("{request}; but earlier: {event}")));
        }
        if label.generation > self.newest.generation {
            let event = request.to_string().into();
            let generation = label.generation;
            self.newest = Newest { generation, invariant: Invariant::Order, event };
        }
        found
    }

    fn answered(&self, then: Presence, request: &Request) -> Vec<Violation> {
        let now = self.presence;
        let changed = then.changes != now.changes;
        let reason = match &request.outcome {
            Outcome::Failed(404, _) if then.may_be_unloaded || now.may_be_unloaded || changed => {
                None
            }
            Outcome::Failed(404, _) => Some(format!("{request}; but it was not unloaded")),
            _ if then.is_unloaded && !changed => Some(format!("{request}; but it was unloaded")),
            Outcome::Answered(_) if request.end - request.start <= self.deadline => None,
            Outcome::Answered(_) => {
                Some(format!("{request}; exceeds the deadline of {:?}", self.deadline))
            }
            _ => Some(request.to_string()),
        };
        violations(Invariant::Answered, reason)
    }

    fn label_truth(&mut self, request: &Request, label: &Label) -> Vec<Violation> {
        let mut reasons = Vec::new();
        let seen = self.seen.entry(label.generation).or_insert_with(|| FirstAnswer {
            version: label.version.clone(),
            end: request.end,
            request: request.to_string(),
        });
        let created = self.created.get(&label.generation).and_then(Option::as_ref);
        let version = created.unwrap_or(&seen.version);
        if *version != label.version {
            reasons.push(format!("{request}; but this generation has version {version:.8}"));
        }
        match &label.content {
            Err(_) => reasons.push(request.to_string()),
            Ok(content) => match self.contents.get(&label.version) {
                Some(known) if known.name == *content => {}
                Some(known) => reasons.push(format!("{request}; but this version is {known:?}")),
                None => {
                    let (name, request) = (content.clone(), request.to_string());
                    let content = Content { name, announced: false, request };
                    self.contents.insert(label.version.clone(), content);
                }
            },
        }
        violations(Invariant::LabelTruth, reasons)
    }

    /// Records the return of an update that was called at `start`. It created `generations`, the
    /// last of which has `version`. Without `content`, the first answer determines the content.
    pub fn committed(
        &mut self,
        start: Duration,
        generations: RangeInclusive<u64>,
        version: &str,
        content: Option<&str>,
    ) -> Vec<Violation> {
        let mut found = match content {
            Some(content) => self.version(version, content),
            None => {
                if let Some(known) = self.contents.get_mut(version) {
                    known.announced = true;
                }
                Vec::new()
            }
        };
        let last = *generations.end();
        for generation in generations {
            let version = (generation == last).then(|| version.to_owned());
            if self.created.insert(generation, version.clone()).is_some() {
                let reason = format!("generation {generation} was created twice");
                found.push(violation(Invariant::NoInventions, reason));
            }
            let Some(seen) = self.seen.get(&generation) else { continue };
            if seen.end < start {
                let reason = format!("{}; but no update had created this generation", seen.request);
                found.push(violation(Invariant::NoInventions, reason));
            }
            if version.is_some_and(|version| version != seen.version) {
                let reason = format!("{}; but this generation has another version", seen.request);
                found.push(violation(Invariant::LabelTruth, reason));
            }
        }
        if last >= self.newest.generation {
            let event =
                format!("an update had returned generation {last}, version {version:.8}").into();
            self.newest = Newest { generation: last, invariant: Invariant::Freshness, event };
        }
        found
    }

    /// Records the call of an unload.
    pub fn unload_called(&mut self) {
        self.set_presence(true, false);
    }

    /// Records the return of an unload. `certain` means that nothing can have reloaded the model
    /// since.
    pub fn unloaded(&mut self, certain: bool) {
        self.set_presence(true, certain);
    }

    /// Records the call of a load.
    pub fn load_called(&mut self) {
        self.set_presence(true, false);
    }

    /// Records that the model is serving again.
    pub fn loaded(&mut self) {
        self.set_presence(false, false);
    }

    fn set_presence(&mut self, may_be_unloaded: bool, is_unloaded: bool) {
        let changes = self.presence.changes + 1;
        self.presence = Presence { may_be_unloaded, is_unloaded, changes };
    }

    /// Returns the number of generations that answered but that no returned update created.
    pub fn unrequested(&self) -> u64 {
        self.seen.keys().filter(|generation| !self.created.contains_key(generation)).count() as u64
    }

    /// Returns the number of generations that answered.
    pub fn generations(&self) -> usize {
        self.seen.len()
    }

    /// Runs the checks that need the complete history. Up to `unrequested` generations may have been
    /// created without a call: by a signal or an automatic rollback.
    pub fn finish(&self, unrequested: u64) -> Vec<Violation> {
        let mut found = Vec::new();
        if self.in_flight > 0 {
            let reason = format!("{} requests are still in flight", self.in_flight);
            found.push(violation(Invariant::Conservation, reason));
        }
        if self.unrequested() > unrequested {
            let invented =
                |(generation, _): &(&u64, &FirstAnswer)| !self.created.contains_key(generation);
            for (_, seen) in self.seen.iter().filter(invented) {
                let reason = format!("{}; but no update created this generation", seen.request);
                found.push(violation(Invariant::NoInventions, reason));
            }
        }
        for (version, content) in self.contents.iter().filter(|(_, content)| !content.announced) {
            let reason = format!("{}; but version {version:.8} was never staged", content.request);
            found.push(violation(Invariant::LabelTruth, reason));
        }
        found
    }
}

fn violation(invariant: Invariant, reason: String) -> Violation {
    Violation { invariant, reason }
}

fn violations(invariant: Invariant, reasons: impl IntoIterator<Item = String>) -> Vec<Violation> {
    reasons.into_iter().map(|reason| violation(invariant, reason)).collect()
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
