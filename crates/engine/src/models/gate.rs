//! Whether a model admits requests, and how many it has admitted that are not answered yet: both in
//! one word, so that no request slips in after the gate was closed. Set by a model's
//! [`driver`](crate::models::update::driver) and [`registry`](crate::models::registry), asked by every request.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

use crate::models::machine::presence::PRESENCES;
pub use crate::models::machine::presence::Presence;

/// The presence is in the low bits of the word, what was admitted is counted above.
const PRESENCE_BITS: u64 = 0b111;
const ONE: u64 = PRESENCE_BITS + 1;

/// A model's gate.
#[derive(Debug, Default)]
pub struct Gate {
    word: AtomicU64,
    emptied: Notify,
}

/// A request that was admitted; dropped when it is answered.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Gate {
    /// Lets a request in if the model is loaded; else says how it is.
    pub fn admit(self: &Arc<Self>) -> Result<Pass, Presence> {
        match presence(self.word.fetch_add(ONE, Ordering::AcqRel)) {
            Presence::Loaded => Ok(Pass(Arc::clone(self))),
            other => {
                self.leave();
                Err(other)
            }
        }
    }

    /// Whether the model is there.
    pub fn presence(&self) -> Presence {
        presence(self.word.load(Ordering::Acquire))
    }

    /// From now on the model is there, or is not.
    pub(super) fn set(&self, to: Presence) {
        let replaced = |word| Some(word & !PRESENCE_BITS | to as u64);
        // It replaces whatever is there, and so always succeeds.
        let _ = self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, replaced);
    }

    /// Waits until all that was admitted is answered.
    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.word.load(Ordering::Acquire) < ONE {
                return;
            }
            emptied.await;
        }
    }

    fn leave(&self) {
        let before = self.word.fetch_sub(ONE, Ordering::AcqRel);
        if before < 2 * ONE && presence(before) != Presence::Loaded {
            self.emptied.notify_waiters();
        }
    }
}

fn presence(word: u64) -> Presence {
    let place = usize::try_from(word & PRESENCE_BITS).unwrap_or_default();
    PRESENCES.get(place).copied().unwrap_or(Presence::NotLoaded)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_closed_gate_admits_nobody_and_waits_for_those_inside() {
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
            assert!(timeout(brief, gate.emptied()).await.is_err(), "somebody is inside");
            drop(pass);
        }
        timeout(Duration::from_secs(10), gate.emptied()).await.unwrap();
        assert_eq!(gate.presence(), Presence::Unloading, "counting leaves it alone");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_last_to_leave_wakes_whoever_waits() {
        for _ in 0..1000 {
            let gate = Arc::new(Gate::default());
            gate.set(Presence::Loaded);
            let pass = gate.admit().unwrap();
            gate.set(Presence::Unloading);
            let leaving = tokio::spawn(async move { drop(pass) });
            timeout(Duration::from_secs(10), gate.emptied()).await.unwrap();
            leaving.await.unwrap();
        }
    }
}
