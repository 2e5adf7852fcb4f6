//! Admits requests to a model and counts those in flight. Both live in one atomic word, so no request
//! slips in after the gate closes. Set by a model's [`driver`](crate::models::update::driver) and by the
//! [`registry`](crate::models::registry); checked by every request.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

use crate::models::machine::presence::PRESENCES;
pub use crate::models::machine::presence::Presence;

/// The low bits of the word hold the presence; the bits above count admitted requests.
const PRESENCE_BITS: u64 = 0b111;
const ONE_REQUEST: u64 = PRESENCE_BITS + 1;

/// A model's gate.
#[derive(Debug, Default)]
pub struct Gate {
    word: AtomicU64,
    drained: Notify,
}

/// An admitted request. Dropped once the request is answered.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Gate {
    /// Admits a request if the model is loaded; otherwise returns the model's presence.
    pub fn admit(self: &Arc<Self>) -> Result<Pass, Presence> {
        match presence(self.word.fetch_add(ONE_REQUEST, Ordering::AcqRel)) {
            Presence::Loaded => Ok(Pass(Arc::clone(self))),
            other => {
                self.leave();
                Err(other)
            }
        }
    }

    /// Returns the model's presence.
    pub fn presence(&self) -> Presence {
        presence(self.word.load(Ordering::Acquire))
    }

    /// Sets the presence and keeps the count of admitted requests.
    pub(super) fn set(&self, to: Presence) {
        let replaced = |word| Some(word & !PRESENCE_BITS | to as u64);
        // The closure never returns `None`, so this always succeeds.
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, replaced);
    }

    /// Waits until every admitted request is answered.
    pub(super) async fn drained(&self) {
        loop {
            let drained = self.drained.notified();
            if self.word.load(Ordering::Acquire) < ONE_REQUEST {
                return;
            }
            drained.await;
        }
    }

    fn leave(&self) {
        let before = self.word.fetch_sub(ONE_REQUEST, Ordering::AcqRel);
        if before < 2 * ONE_REQUEST && presence(before) != Presence::Loaded {
            self.drained.notify_waiters();
        }
    }
}

fn presence(word: u64) -> Presence {
    let index = usize::try_from(word & PRESENCE_BITS).unwrap_or_default();
    PRESENCES.get(index).copied().unwrap_or(Presence::NotLoaded)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn closed_gate_admits_no_request_and_waits_for_those_in_flight() {
        let gate = Arc::new(Gate::default());
        assert_eq!(gate.admit().unwrap_err(), Presence::NotLoaded);
        for to in PRESENCES {
            gate.set(to);
            assert_eq!(gate.presence(), to);
            assert_eq!(gate.admit().is_ok(), to == Presence::Loaded, "{to:?}");
        }
        gate.set(Presence::Loaded);
        let inside = [gate.admit().unwrap(), gate.admit().unwrap()];
        gate.set(Presence::Unloading);
        assert_eq!(gate.admit().unwrap_err(), Presence::Unloading);
        let brief = Duration::from_millis(20);
        for pass in inside {
            assert!(timeout(brief, gate.drained()).await.is_err(), "a request is in flight");
            drop(pass);
        }
        timeout(Duration::from_secs(10), gate.drained()).await.unwrap();
        assert_eq!(gate.presence(), Presence::Unloading, "counting keeps the presence");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn last_request_to_leave_wakes_the_waiter() {
        for _ in 0..1000 {
            let gate = Arc::new(Gate::default());
            gate.set(Presence::Loaded);
            let pass = gate.admit().unwrap();
            gate.set(Presence::Unloading);
            let leaving = tokio::spawn(async move { drop(pass) });
            timeout(Duration::from_secs(10), gate.drained()).await.unwrap();
            leaving.await.unwrap();
        }
    }
}
