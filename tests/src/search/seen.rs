//! What the clients of a load saw, checked as it arrives.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    documents::{Asked, Documents},
    requests::Answer,
    spaces::Spaces,
};
use crate::{
    client::{self, Response, Unanswered},
    history::{
        Invariant, Label, Outcome, Request, Violation,
        live::{Live, StartInfo},
    },
};

/// Everything that was seen so far.
#[derive(Debug)]
pub(super) struct Seen {
    pub documents: Documents,
    pub live: Live,
    /// The newest generation whose commit is known.
    pub committed: u64,
    /// Contents by version.
    pub contents: BTreeMap<String, String>,
    /// Answers of a version whose content is not known yet, which fit several contents: the same text is
    /// the best hit in every space.
    undecided: Vec<Undecided>,
    /// Times during which the server was killed and not ready again.
    pub outages: Vec<(Duration, Option<Duration>)>,
    pub violations: Vec<Violation>,
    pub summary: Summary,
}

/// An answer that is compared once the content of its version is known.
#[derive(Debug)]
struct Undecided {
    version: String,
    /// The contents that it fits.
    contents: Vec<String>,
    hits: String,
}

/// Counts of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Searches that were answered. Each equals an exact search in the space of its version.
    pub searches: usize,
    /// Those of clients for what they had just written.
    pub own: usize,
    /// Answers by content.
    pub contents: BTreeMap<String, usize>,
    /// Acknowledged writes.
    pub writes: usize,
    /// Answers that are exact in several spaces, given before their version's content was stated. They
    /// are compared once it is.
    pub undecided: usize,
    /// Requests without an answer because the server was killed.
    pub excused: usize,
    /// The longest search.
    pub longest: Duration,
    /// The longest write. Updates hold writes back for a while.
    pub longest_write: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { searches, own, contents, writes, undecided, excused, longest, longest_write } =
            self;
        let contents: Vec<String> =
            contents.iter().map(|(content, count)| format!("{count} in {content}")).collect();
        let contents = contents.join(", ");
        write!(
            f,
            "{searches} exact searches ({contents}; {own} for own writes), {undecided} in several spaces, {writes} writes, {excused} requests lost in outages, longest search {longest:.2?}, longest write {longest_write:.2?}"
        )
    }
}

impl Seen {
    pub(super) fn new(documents: usize) -> Self {
        Self {
            documents: Documents::new(documents),
            live: Live::new(client::DEADLINE),
            committed: 0,
            contents: BTreeMap::new(),
            undecided: Vec::new(),
            outages: Vec::new(),
            violations: Vec::new(),
            summary: Summary::default(),
        }
    }

    /// Returns whether the server was down at some moment since `start`.
    pub(super) fn was_down(&self, start: Duration) -> bool {
        self.outages.iter().any(|(_, end)| end.is_none_or(|end| end >= start))
    }

    pub(super) fn violated(&mut self, reason: String) {
        self.violations.push(Violation { invariant: Invariant::Answered, reason });
    }

    /// Records a search that must have been answered. Returns whether it was.
    pub(super) fn searched(&mut self, start_info: StartInfo, request: Request) -> bool {
        let found = self.live.end(start_info, &request);
        self.violations.extend(found);
        let Outcome::Answered(label) = &request.outcome else { return false };
        self.summary.searches += 1;
        self.summary.longest = self.summary.longest.max(request.end - request.start);
        if let Ok(content) = &label.content {
            *self.summary.contents.entry(content.clone()).or_default() += 1;
        }
        true
    }

    /// States the content of a version, and compares the answers that were undecided until now.
    pub(super) fn state(&mut self, version: &str, content: &str) {
        self.contents.insert(version.to_owned(), content.to_owned());
        let is_stated = |undecided: &mut Undecided| undecided.version == version;
        for Undecided { contents, hits, .. } in self.undecided.extract_if(.., is_stated) {
            if !contents.iter().any(|fitting| fitting == content) {
                let reason = format!(
                    "{hits}: exact in the spaces of {contents:?}; but version {version:.8} is {content}"
                );
                self.violations.push(Violation { invariant: Invariant::LabelTruth, reason });
            }
        }
    }

    /// Returns the outcome of a search; `None` if it fits several contents, and which one its version
    /// has is not known yet.
    pub(super) fn outcome(
        &mut self,
        spaces: &Spaces,
        asked: Asked,
        sent: Result<Response, Unanswered>,
    ) -> Option<Outcome> {
        let response = match sent {
            Ok(response) => response,
            Err(Unanswered(reason)) => return Some(Outcome::Lost(reason)),
        };
        if response.status != 200 {
            return Some(Outcome::Failed(response.status, response.text()));
        }
        match Answer::read(&response) {
            Ok(answer) => {
                let content = self.content(spaces, asked, &answer)?;
                let Answer { generation, version, .. } = answer;
                Some(Outcome::Answered(Label { generation, version, content }))
            }
            Err(reason) => Some(Outcome::Failed(200, reason)),
        }
    }

    /// Returns the content whose space an answer was searched in; `None` if several fit, and the
    /// content of its version is not known yet.
    fn content(
        &mut self,
        spaces: &Spaces,
        asked: Asked,
        answer: &Answer,
    ) -> Option<Result<String, String>> {
        let check = |content: &str| self.documents.check((spaces, content), asked, &answer.hits);
        let fitting = || spaces.contents().filter(|content| check(content).is_ok());
        let Some(known) = self.contents.get(&answer.version) else {
            // Its update has not returned yet.
            let mut contents: Vec<String> = fitting().map(str::to_owned).collect();
            if contents.len() > 1 {
                let (version, hits) = (answer.version.clone(), format!("{:?}", answer.hits));
                self.summary.undecided += 1;
                self.undecided.push(Undecided { version, contents, hits });
                return None;
            }
            let none = || "not exact in the space of any content".to_owned();
            return Some(contents.pop().ok_or_else(none));
        };
        let Err(reason) = check(known) else { return Some(Ok(known.clone())) };
        Some(match fitting().next() {
            Some(other) => Ok(other.to_owned()),
            None => Err(format!("not exact in any space; in that of {known}: {reason}")),
        })
    }
}
