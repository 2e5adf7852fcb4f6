//! The checker. It looks at each request once and forgets it, so that millions of requests take no
//! memory. What it keeps grows with the number of generations alone. The soak feeds it while it
//! runs; [`super::History`] replays a recorded history.
//!
//! Callers report events in the order in which they happen. A request that begins carries the
//! generation that it must not fall below; nothing else is remembered of those before it.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc, time::Duration};

use super::{Invariant, Label, Outcome, Request, Violation};

/// One model's history up to now.
#[derive(Debug)]
pub struct Live {
    deadline: Duration,
    /// The newest generation that an answer had or an update returned, and which it was.
    newest: Newest,
    /// By generation that a returned update made, its version, where that was said.
    made: BTreeMap<u64, Option<String>>,
    seen: BTreeMap<u64, Seen>,
    contents: BTreeMap<String, Content>,
    presence: Presence,
    open: u64,
}

/// What no later request may fall below, and why.
#[derive(Clone, Debug)]
struct Newest {
    generation: u64,
    invariant: Invariant,
    event: Arc<str>,
}

/// The first answer of a generation.
#[derive(Debug)]
struct Seen {
    version: String,
    end: Duration,
    request: String,
}

/// What a version is known to be.
#[derive(Debug)]
struct Content {
    name: String,
    /// Somebody said so; otherwise an answer did.
    said: bool,
    request: String,
}

/// Whether the model is loaded, as far as clients can know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Presence {
    /// From the call of an unload to the return of the load after it.
    may_be_gone: bool,
    /// From the return of an unload to the call of the load after it.
    is_gone: bool,
    /// How often one of these has changed.
    changes: u64,
}

/// A request that is under way.
#[derive(Debug)]
pub struct Begun {
    floor: Newest,
    presence: Presence,
}

impl Live {
    /// A history in which every request has to be answered within `deadline`.
    pub fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            newest: Newest { generation: 0, invariant: Invariant::Order, event: "".into() },
            made: BTreeMap::new(),
            seen: BTreeMap::new(),
            contents: BTreeMap::new(),
            presence: Presence::default(),
            open: 0,
        }
    }

    /// Says what content a version has.
    pub fn version(&mut self, version: &str, content: &str) -> Vec<Violation> {
        let said =
            |name: &str| Content { name: name.to_owned(), said: true, request: String::new() };
        let before = self.contents.insert(version.to_owned(), said(content));
        let wrong = before.filter(|before| before.name != content);
        let complain =
            |before: Content| format!("{}; but version {version:.8} is {content}", before.request);
        violations(Invariant::LabelTruth, wrong.map(complain))
    }

    /// A request is sent.
    pub fn begin(&mut self) -> Begun {
        self.open += 1;
        Begun { floor: self.newest.clone(), presence: self.presence }
    }

    /// A request ended in a way that says nothing about the model and is none of its failures: its
    /// client left it, or there was too much to do.
    pub fn excuse(&mut self, begun: Begun) {
        drop(begun);
        self.open -= 1;
    }

    /// A request ended.
    pub fn end(&mut self, begun: Begun, request: &Request) -> Vec<Violation> {
        self.open -= 1;
        let mut found = self.answered(begun.presence, request);
        let Outcome::Answered(label) = &request.outcome else { return found };
        found.extend(self.label_truth(request, label));
        let Newest { generation: floor, invariant, event } = &begun.floor;
        if label.generation < *floor {
            found.push(violation(*invariant, format!("{request}; but before it {event}")));
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
            Outcome::Failed(404, _) if then.may_be_gone || now.may_be_gone || changed => None,
            Outcome::Failed(404, _) => Some(format!("{request}; but it was not unloaded")),
            _ if then.is_gone && !changed => Some(format!("{request}; but it was unloaded")),
            Outcome::Answered(_) if request.end - request.start <= self.deadline => None,
            Outcome::Answered(_) => Some(format!("{request}; later than {:?}", self.deadline)),
            _ => Some(request.to_string()),
        };
        violations(Invariant::Answered, reason)
    }

    fn label_truth(&mut self, request: &Request, label: &Label) -> Vec<Violation> {
        let mut reasons = Vec::new();
        let seen = self.seen.entry(label.generation).or_insert_with(|| Seen {
            version: label.version.clone(),
            end: request.end,
            request: request.to_string(),
        });
        let made = self.made.get(&label.generation).and_then(Option::as_ref);
        let version = made.unwrap_or(&seen.version);
        if *version != label.version {
            reasons.push(format!("{request}; but that generation is {version:.8}"));
        }
        match &label.content {
            Err(_) => reasons.push(request.to_string()),
            Ok(content) => match self.contents.get(&label.version) {
                Some(known) if known.name == *content => {}
                Some(known) => reasons.push(format!("{request}; but that version is {known:?}")),
                None => {
                    let (name, request) = (content.clone(), request.to_string());
                    let content = Content { name, said: false, request };
                    self.contents.insert(label.version.clone(), content);
                }
            },
        }
        violations(Invariant::LabelTruth, reasons)
    }

    /// An update that was asked for at `start` has returned: it made these generations, the last of
    /// which is `version`. No `content`: it is what the answers say.
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
                    known.said = true;
                }
                Vec::new()
            }
        };
        let last = *generations.end();
        for generation in generations {
            let version = (generation == last).then(|| version.to_owned());
            if self.made.insert(generation, version.clone()).is_some() {
                let reason = format!("generation {generation} was made twice");
                found.push(violation(Invariant::NoInventions, reason));
            }
            let Some(seen) = self.seen.get(&generation) else { continue };
            if seen.end < start {
                let reason = format!("{}; but nothing had made that generation", seen.request);
                found.push(violation(Invariant::NoInventions, reason));
            }
            if version.is_some_and(|version| version != seen.version) {
                let reason = format!("{}; but that generation is another version", seen.request);
                found.push(violation(Invariant::LabelTruth, reason));
            }
        }
        if last >= self.newest.generation {
            let event = format!("generation {last} of {version:.8} had returned").into();
            self.newest = Newest { generation: last, invariant: Invariant::Freshness, event };
        }
        found
    }

    /// An unload is asked for.
    pub fn unload_asked(&mut self) {
        self.present(true, false);
    }

    /// An unload has returned; `certain`: nothing else can have loaded the model again meanwhile.
    pub fn unloaded(&mut self, certain: bool) {
        self.present(true, certain);
    }

    /// A load is asked for.
    pub fn load_asked(&mut self) {
        self.present(true, false);
    }

    /// The model serves again.
    pub fn loaded(&mut self) {
        self.present(false, false);
    }

    fn present(&mut self, may_be_gone: bool, is_gone: bool) {
        let changes = self.presence.changes + 1;
        self.presence = Presence { may_be_gone, is_gone, changes };
    }

    /// Generations that were seen and that no update which has returned has made.
    pub fn unasked(&self) -> u64 {
        self.seen.keys().filter(|generation| !self.made.contains_key(generation)).count() as u64
    }

    /// How many generations were seen.
    pub fn generations(&self) -> usize {
        self.seen.len()
    }

    /// Whatever can be said only when everything has ended; `unasked` generations may have been made
    /// without a call: by a signal, or by the server itself.
    pub fn finish(&self, unasked: u64) -> Vec<Violation> {
        let mut found = Vec::new();
        if self.open > 0 {
            let reason = format!("{} requests have not ended", self.open);
            found.push(violation(Invariant::Conservation, reason));
        }
        if self.unasked() > unasked {
            let invented = |(generation, _): &(&u64, &Seen)| !self.made.contains_key(generation);
            for (_, seen) in self.seen.iter().filter(invented) {
                let reason = format!("{}; but nothing had made that generation", seen.request);
                found.push(violation(Invariant::NoInventions, reason));
            }
        }
        for (version, content) in self.contents.iter().filter(|(_, content)| !content.said) {
            let reason = format!("{}; but nobody staged version {version:.8}", content.request);
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
