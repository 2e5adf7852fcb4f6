//! Limits open connections and picks the one to close when the limit is reached. Independent of sockets:
//! [`crate::transport::listener`] acquires a slot for each connection it accepts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing was received since the last response.
    Idle,
    /// Receiving a request's headers, or a handshake, since this time.
    Headers(Instant),
    /// A request is being processed. Its body has separate time limits.
    Answering,
}

/// Eviction order: idle connections first, then those still sending headers; the oldest first within
/// each group.
type EvictionKey = (bool, u64);

/// Connection slots shared by several listeners.
#[derive(Debug)]
pub(crate) struct ConnectionSlots {
    max: usize,
    usage: Mutex<Usage>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Usage {
    count: usize,
    changes: u64,
    evictable: BTreeMap<EvictionKey, Arc<Notify>>,
}

impl ConnectionSlots {
    /// Returns `max` free slots.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, usage: Mutex::default(), freed: Notify::new() })
    }

    /// Returns a slot, if one is free.
    pub(crate) fn take(self: &Arc<Self>) -> Option<ConnectionSlot> {
        let mut usage = self.lock();
        if usage.count >= self.max {
            return None;
        }
        usage.count += 1;
        drop(usage);
        let state = State { phase: Phase::Idle, answering: 0, key: None, stalled: None };
        let slot =
            ConnectionSlot { slots: Arc::clone(self), close: Arc::default(), state: state.into() };
        slot.set(Phase::Idle);
        Some(slot)
    }

    /// Asks the first connection in eviction order to close. Returns `false` if none may be closed.
    pub(crate) fn evict_one(&self) -> bool {
        let closed = self.lock().evictable.pop_first();
        closed.is_some_and(|(_, close)| {
            close.notify_one();
            true
        })
    }

    /// Waits until a slot becomes free.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of one connection. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    close: Arc<Notify>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Responses not yet fully sent. With pipelining there may be several.
    answering: usize,
    key: Option<EvictionKey>,
    /// When the client stopped reading, if it did.
    stalled: Option<Instant>,
}

impl ConnectionSlot {
    /// Enters a phase.
    pub(crate) fn set(&self, phase: Phase) {
        let (mut state, mut usage) = (self.lock(), self.slots.lock());
        if let Some(key) = state.key.take() {
            usage.evictable.remove(&key);
        }
        state.phase = phase;
        if phase != Phase::Answering {
            usage.changes += 1;
            let key = (phase != Phase::Idle, usage.changes);
            usage.evictable.insert(key, Arc::clone(&self.close));
            state.key = Some(key);
        }
    }

    /// Records that a request begins.
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

    /// Records that a response was sent completely, or never will be.
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

    /// Moves an idle connection to the end of the eviction order.
    pub(crate) fn was_active(&self) {
        if self.lock().phase == Phase::Idle {
            self.set(Phase::Idle);
        }
    }

    /// Records that bytes arrived.
    pub(crate) fn received(&self) {
        let idle = self.lock().phase == Phase::Idle;
        if idle {
            self.set(Phase::Headers(Instant::now()));
        }
    }

    /// Records whether bytes could be sent. They cannot while the client reads nothing.
    pub(crate) fn sent(&self, some: bool) {
        let mut state = self.lock();
        if some {
            state.stalled = None;
        } else {
            state.stalled.get_or_insert_with(Instant::now);
        }
    }

    /// Waits until this connection is picked for eviction.
    pub(crate) async fn evicted(&self) {
        self.close.notified().await;
    }

    /// Returns whether the client has exceeded the time for its headers, or has read nothing for `answer`.
    pub(crate) fn too_slow(&self, headers: Duration, answer: Duration) -> bool {
        let state = self.lock();
        matches!(state.phase, Phase::Headers(since) if since.elapsed() >= headers)
            || state.stalled.is_some_and(|since| since.elapsed() >= answer)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let key = self.lock().key.take();
        let mut usage = self.slots.lock();
        if let Some(key) = key {
            usage.evictable.remove(&key);
        }
        usage.count -= 1;
        drop(usage);
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_evicted(slot: &ConnectionSlot) -> bool {
        slot.evicted().now_or_never().is_some()
    }

    #[tokio::test]
    async fn eviction_takes_longest_idle_then_slow_headers_never_busy() {
        let slots = ConnectionSlots::new(4);
        let [answered, headers, old, young] = [(); 4].map(|()| slots.take().unwrap());
        assert!(slots.take().is_none(), "all are in use");
        answered.set(Phase::Answering);
        headers.received();
        // The connection answered last has been idle for the shortest time.
        young.set(Phase::Answering);
        young.set(Phase::Idle);
        old.was_active();
        for victim in [&young, &old, &headers] {
            assert!(slots.evict_one());
            let all = [&answered, &headers, &old, &young];
            let closed = all.into_iter().filter(|slot| is_evicted(slot));
            assert!(closed.map(std::ptr::from_ref).eq([std::ptr::from_ref(victim)]));
        }
        assert!(!slots.evict_one() && !is_evicted(&answered));
    }

    #[tokio::test]
    async fn pipelining_connection_is_evictable_after_its_last_response() {
        let slots = ConnectionSlots::new(1);
        let slot = slots.take().unwrap();
        slot.answer_begins();
        slot.answer_begins();
        slot.answer_ends();
        assert!(!slots.evict_one());
        slot.answer_ends();
        assert!(slots.evict_one() && is_evicted(&slot));
    }

    #[tokio::test]
    async fn dropped_slot_is_free_and_evicts_nothing() {
        let slots = ConnectionSlots::new(1);
        drop(slots.take().unwrap());
        assert!(!slots.evict_one());
        slots.freed().await;
        assert!(slots.take().is_some());
    }

    #[test]
    fn client_that_reads_nothing_is_too_slow() {
        let slot = ConnectionSlots::new(1).take().unwrap();
        let slow = || slot.too_slow(Duration::MAX, Duration::ZERO);
        assert!(!slow());
        slot.sent(false);
        assert!(slow());
        slot.sent(true);
        assert!(!slow());
        slot.received();
        assert!(slot.too_slow(Duration::ZERO, Duration::MAX));
        slot.set(Phase::Answering);
        assert!(!slot.too_slow(Duration::ZERO, Duration::MAX));
    }
}
