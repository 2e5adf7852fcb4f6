//! What a search may find: the documents that were acknowledged before it began, with any part of the
//! writes that overlap it. Uses no sockets and no clock: times are durations since the start of the
//! history.

use std::time::Duration;

use super::{requests::Hit, spaces::Space, spaces::Spaces};

/// Scores may differ by this much: padding and CPU instructions change the order of additions.
/// Different contents differ by a thousand times more.
const TOLERANCE: f32 = 2e-5;

/// The states of all documents over time. Ids are below a number that is known at the start.
#[derive(Debug)]
pub struct Documents {
    timelines: Vec<Vec<State>>,
}

/// What one write made of a document.
#[derive(Clone, Copy, Debug)]
struct State {
    /// The number of its text, or `None` if it is deleted.
    text: Option<usize>,
    start: Duration,
    /// `None`: running, or its outcome is unknown.
    acknowledged: Option<Duration>,
    /// It changed nothing.
    refused: bool,
}

/// A write that is not acknowledged yet. If it is dropped, its outcome is unknown.
#[derive(Debug)]
pub struct Write(Vec<(usize, usize)>);

/// A search and when it ran.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The number of the query's text.
    pub query: usize,
    /// How many documents were asked for.
    pub limit: usize,
    /// When it was sent, and when its answer was there.
    pub times: (Duration, Duration),
}

impl Documents {
    /// Starts without documents. Ids must be below `ids`.
    pub fn new(ids: usize) -> Self {
        let absent = State {
            text: None,
            start: Duration::ZERO,
            acknowledged: Some(Duration::ZERO),
            refused: false,
        };
        Self { timelines: vec![vec![absent]; ids] }
    }

    /// Records the start of a write that sets texts of documents, or deletes them. Writes of one
    /// document must follow one another.
    pub fn begin(&mut self, start: Duration, changes: &[(u64, Option<usize>)]) -> Write {
        let begin = |&(id, text): &(u64, Option<usize>)| {
            let id = index(id);
            let state = State { text, start, acknowledged: None, refused: false };
            self.timelines[id].push(state);
            (id, self.timelines[id].len() - 1)
        };
        Write(changes.iter().map(begin).collect())
    }

    /// Records that a write was acknowledged.
    pub fn acknowledge(&mut self, write: Write, now: Duration) {
        for (id, state) in write.0 {
            self.timelines[id][state].acknowledged = Some(now);
        }
    }

    /// Records that a write was refused, so that it must have changed nothing.
    pub fn refuse(&mut self, write: Write) {
        for (id, state) in write.0 {
            self.timelines[id][state].refused = true;
        }
    }

    /// Returns the texts that a document may have had at some moment between two times.
    pub(super) fn possible(
        &self,
        id: usize,
        (from, to): (Duration, Duration),
    ) -> impl Iterator<Item = Option<usize>> {
        let states = &self.timelines[id];
        let is_certain = |state: &State| state.acknowledged.is_some_and(|at| at <= from);
        let first = states.iter().rposition(is_certain).unwrap_or(0);
        let effective = move |state: &&State| !state.refused && state.start <= to;
        states[first..].iter().filter(effective).map(|state| state.text)
    }

    /// Returns the documents as they are, if no write runs or was lost.
    pub fn current(&self) -> impl Iterator<Item = (u64, usize)> {
        let last = |states: &Vec<State>| {
            states.iter().rfind(|state| !state.refused).and_then(|state| state.text)
        };
        (0..).zip(&self.timelines).filter_map(move |(id, states)| Some((id, last(states)?)))
    }

    /// Checks that an answer equals an exact search in the space of one content.
    ///
    /// # Errors
    /// It does not; the reason names a document.
    pub fn check(
        &self,
        (spaces, content): (&Spaces, &str),
        asked: Asked,
        hits: &[Hit],
    ) -> Result<(), String> {
        let space = spaces.space(content);
        let mut seen = vec![false; self.timelines.len()];
        let mut last = f32::INFINITY;
        for hit in hits {
            let id = index(hit.id);
            if id >= seen.len() || std::mem::replace(&mut seen[id], true) {
                return Err(format!("document {} is unknown, or found twice", hit.id));
            }
            if hit.score > last {
                return Err(format!("document {} is behind a worse one", hit.id));
            }
            last = hit.score;
            self.check_hit((spaces, space), asked, hit)?;
        }
        if hits.len() > asked.limit {
            return Err(format!("{} documents were found, {} asked for", hits.len(), asked.limit));
        }
        let floor = if hits.len() == asked.limit { last } else { f32::NEG_INFINITY };
        let left_out = (0..self.timelines.len()).filter(|id| !seen[*id]);
        for id in left_out {
            let score = |text: Option<usize>| text.map(|text| space.score(asked.query, text));
            let may_be_left_out = |score: Option<f32>| score.is_none_or(|s| s <= floor + TOLERANCE);
            if !self.possible(id, asked.times).map(score).any(may_be_left_out) {
                let scores: Vec<_> = self.possible(id, asked.times).map(score).collect();
                return Err(format!(
                    "document {id} with scores {scores:?} is missing, the worst found has {floor}"
                ));
            }
        }
        Ok(())
    }

    fn check_hit(
        &self,
        (spaces, space): (&Spaces, &Space),
        asked: Asked,
        hit: &Hit,
    ) -> Result<(), String> {
        let Hit { id, score, text } = hit;
        let Some(text) = spaces.find(text) else {
            return Err(format!("document {id} has the unknown text {text:?}"));
        };
        let mut possible = self.possible(index(*id), asked.times);
        if !possible.any(|possible| possible == Some(text)) {
            let possible: Vec<_> = self.possible(index(*id), asked.times).collect();
            return Err(format!("document {id} has text {text}, and may have had {possible:?}"));
        }
        let expected = space.score(asked.query, text);
        if (score - expected).abs() > TOLERANCE {
            return Err(format!("document {id} has score {score} instead of {expected}"));
        }
        Ok(())
    }
}

fn index(id: u64) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;
