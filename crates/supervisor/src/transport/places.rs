//! Places for connections: how many may be open, and whose is given to somebody else when all are
//! taken. Knows no socket; the [`crate::transport::listener`] asks for a place before it accepts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing has come since the last answer.
    Idle,
    /// A request's headers have been coming since then, or a handshake.
    Headers(Instant),
    /// A request is read and answered; its body has time limits of its own.
    Answering,
}

/// Who is closed first when places are needed: idle ones, then those that have not ended their
/// headers; among them who has been so for longest.
type Turn = (bool, u64);

/// Places that several listeners share.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    count: usize,
    changes: u64,
    closable: BTreeMap<Turn, Arc<Notify>>,
}

impl Places {
    /// So many.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default(), freed: Notify::new() })
    }

    /// A place, if one is free.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.lock();
        if taken.count >= self.max {
            return None;
        }
        taken.count += 1;
        drop(taken);
        let state = State { phase: Phase::Idle, answering: 0, turn: None, stalled: None };
        let place = Place { places: Arc::clone(self), close: Arc::default(), state: state.into() };
        place.set(Phase::Idle);
        Some(place)
    }

    /// Asks the connection to close that is missed least. Answers whether there was one.
    pub(crate) fn close_one(&self) -> bool {
        let closed = self.lock().closable.pop_first();
        closed.is_some_and(|(_, close)| {
            close.notify_one();
            true
        })
    }

    /// Returns when a place has become free.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place. Dropping it frees it.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    close: Arc<Notify>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Answers that are not sent to the end: the next request may come before the last is.
    answering: usize,
    turn: Option<Turn>,
    /// Since when the client has taken nothing of what is sent.
    stalled: Option<Instant>,
}

impl Place {
    /// The connection is in this phase from now on.
    pub(crate) fn set(&self, phase: Phase) {
        let (mut state, mut taken) = (self.lock(), self.places.lock());
        if let Some(turn) = state.turn.take() {
            taken.closable.remove(&turn);
        }
        state.phase = phase;
        if phase != Phase::Answering {
            taken.changes += 1;
            let turn = (phase != Phase::Idle, taken.changes);
            taken.closable.insert(turn, Arc::clone(&self.close));
            state.turn = Some(turn);
        }
    }

    /// One more request is read and answered.
    pub(crate) fn answer_begins(&self) {
        let first = {
            let mut state = self.lock();
            state.answering += 1;
            state.answering == 1
        };
        if first {
            self.set(Phase::Answering);
        }
    }

    /// An answer has been sent to the end, or will never be.
    pub(crate) fn answer_ends(&self) {
        let last = {
            let mut state = self.lock();
            state.answering -= 1;
            state.answering == 0
        };
        if last {
            self.set(Phase::Idle);
        }
    }

    /// It is idle, but others have been so for longer.
    pub(crate) fn was_active(&self) {
        if self.lock().phase == Phase::Idle {
            self.set(Phase::Idle);
        }
    }

    /// Bytes have come.
    pub(crate) fn bytes(&self) {
        let idle = self.lock().phase == Phase::Idle;
        if idle {
            self.set(Phase::Headers(Instant::now()));
        }
    }

    /// Bytes could be sent, or could not since the client takes none.
    pub(crate) fn sent(&self, some: bool) {
        let mut state = self.lock();
        if some {
            state.stalled = None;
        } else {
            state.stalled.get_or_insert_with(Instant::now);
        }
    }

    /// Returns when the place is wanted for somebody else.
    pub(crate) async fn wanted(&self) {
        self.close.notified().await;
    }

    /// Whether the client has taken longer than this for its headers, or to take an answer.
    pub(crate) fn too_slow(&self, headers: Duration, answer: Duration) -> bool {
        let state = self.lock();
        matches!(state.phase, Phase::Headers(since) if since.elapsed() >= headers)
            || state.stalled.is_some_and(|since| since.elapsed() >= answer)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let turn = self.lock().turn.take();
        let mut taken = self.places.lock();
        if let Some(turn) = turn {
            taken.closable.remove(&turn);
        }
        taken.count -= 1;
        drop(taken);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn wanted(place: &Place) -> bool {
        place.wanted().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_longest_idle_goes_first_then_slow_headers_and_never_who_is_answered() {
        let places = Places::new(4);
        let [answered, headers, old, young] = [(); 4].map(|()| places.take().unwrap());
        assert!(places.take().is_none(), "all are taken");
        answered.set(Phase::Answering);
        headers.bytes();
        // Who has just been answered is the youngest of the idle ones.
        young.set(Phase::Answering);
        young.set(Phase::Idle);
        old.was_active();
        for victim in [&young, &old, &headers] {
            assert!(places.close_one());
            let all = [&answered, &headers, &old, &young];
            let closed = all.into_iter().filter(|place| wanted(place));
            assert!(closed.map(std::ptr::from_ref).eq([std::ptr::from_ref(victim)]));
        }
        assert!(!places.close_one() && !wanted(&answered));
    }

    #[tokio::test]
    async fn a_place_is_not_closed_before_the_last_of_its_answers_is_sent() {
        let places = Places::new(1);
        let place = places.take().unwrap();
        place.answer_begins();
        place.answer_begins();
        place.answer_ends();
        assert!(!places.close_one());
        place.answer_ends();
        assert!(places.close_one() && wanted(&place));
    }

    #[tokio::test]
    async fn a_place_that_is_dropped_is_free_and_closes_nobody() {
        let places = Places::new(1);
        drop(places.take().unwrap());
        assert!(!places.close_one());
        places.freed().await;
        assert!(places.take().is_some());
    }

    #[test]
    fn who_takes_nothing_is_too_slow_until_something_could_be_sent() {
        let place = Places::new(1).take().unwrap();
        let slow = || place.too_slow(Duration::MAX, Duration::ZERO);
        assert!(!slow());
        place.sent(false);
        assert!(slow());
        place.sent(true);
        assert!(!slow());
        place.bytes();
        assert!(place.too_slow(Duration::ZERO, Duration::MAX));
        place.set(Phase::Answering);
        assert!(!place.too_slow(Duration::ZERO, Duration::MAX));
    }
}
