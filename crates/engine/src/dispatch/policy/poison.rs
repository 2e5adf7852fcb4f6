//! For a while, refuses inputs that crashed two workers, whichever client sends them. Otherwise one
//! client that keeps retrying would keep all workers down. Pure: callers pass the time.
//!
//! An entry applies only to the generation that crashed; the next one may be able to answer.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use onnxd_proto::{control_page::Slot, generation::Generation};
use sha2::{Digest, Sha256};

use crate::dispatch::item::Input;

/// How long identical inputs are refused.
pub(crate) const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Inputs remembered at once; the oldest is evicted.
const ENTRIES_MAX: usize = 64;

/// Identifies identical inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fingerprint {
    slot: Slot,
    /// Compared first, so that hashing is rarely needed.
    bytes: usize,
    hash: [u8; 32],
}

/// The inputs that are refused.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    /// Oldest first.
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    generation: Generation,
    until: Instant,
}

impl Poison {
    /// Adds an item that crashed too many workers of this generation.
    pub(crate) fn record(
        &mut self,
        now: Instant,
        (slot, generation): (Slot, Generation),
        input: &Input,
    ) {
        let fingerprint = Fingerprint { slot, bytes: input.bytes(), hash: hash(input) };
        self.entries.retain(|entry| entry.until > now && entry.fingerprint != fingerprint);
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { fingerprint, generation, until: now + REFUSED_FOR });
    }

    /// Returns whether an input is identical to one that crashed workers of this generation.
    pub(crate) fn contains(
        &self,
        now: Instant,
        (slot, generation): (Slot, Generation),
        input: &Input,
    ) -> bool {
        let bytes = input.bytes();
        let mut candidates = self.entries.iter().filter(|entry| {
            entry.until > now
                && entry.generation == generation
                && (entry.fingerprint.slot, entry.fingerprint.bytes) == (slot, bytes)
        });
        let Some(first) = candidates.next() else { return false };
        let hash = hash(input);
        std::iter::once(first).chain(candidates).any(|entry| entry.fingerprint.hash == hash)
    }
}

/// Hashes the operation and its payload. The split into parts makes no difference.
fn hash(input: &Input) -> [u8; 32] {
    let mut hash = Sha256::new();
    // JSON is self-delimiting, so the payload needs no separator.
    hash.update(serde_json::to_vec(&input.operation).unwrap_or_default());
    input.parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use onnxd_proto::wire::operation::Operation;

    use super::*;

    fn input(skip_special: bool, parts: &[&'static str]) -> Input {
        let parts = parts.iter().map(|part| Bytes::from_static(part.as_bytes())).collect();
        Input { operation: Operation::Decode { skip_special }, parts }
    }

    #[test]
    fn only_identical_inputs_are_refused_and_only_for_a_while() {
        let now = Instant::now();
        let bad = input(true, &["poison"]);
        let mut poison = Poison::default();
        assert!(!poison.contains(now, (1, 7), &bad));
        poison.record(now, (1, 7), &bad);
        let last = now + REFUSED_FOR - Duration::from_millis(1);
        for at in [now, last] {
            assert!(poison.contains(at, (1, 7), &bad));
            assert!(poison.contains(at, (1, 7), &input(true, &["poi", "son"])), "the same bytes");
        }
        assert!(!poison.contains(now, (1, 7), &input(true, &["poisoN"])), "different bytes");
        assert!(!poison.contains(now, (1, 7), &input(false, &["poison"])), "different operation");
        assert!(!poison.contains(now, (2, 7), &bad), "different model");
        assert!(!poison.contains(now, (1, 8), &bad), "different generation");
        assert!(!poison.contains(now + REFUSED_FOR, (1, 7), &bad), "the refusal expires");
    }

    #[test]
    fn the_list_is_bounded_and_the_oldest_entry_is_evicted() {
        let now = Instant::now();
        let mut poison = Poison::default();
        let number = |number: usize| Input {
            operation: Operation::Decode { skip_special: true },
            parts: vec![Bytes::from(format!("{number:04}"))],
        };
        for count in 0..=ENTRIES_MAX {
            poison.record(now, (0, 1), &number(count));
        }
        assert_eq!(poison.entries.len(), ENTRIES_MAX);
        assert!(!poison.contains(now, (0, 1), &number(0)));
        assert!((1..=ENTRIES_MAX).all(|count| poison.contains(now, (0, 1), &number(count))));
    }

    #[test]
    fn a_repeated_crash_extends_the_refusal() {
        let now = Instant::now();
        let bad = input(true, &["poison"]);
        let mut poison = Poison::default();
        poison.record(now, (0, 1), &bad);
        let later = now + REFUSED_FOR / 2;
        poison.record(later, (0, 2), &bad);
        assert_eq!(poison.entries.len(), 1);
        assert!(poison.contains(now + REFUSED_FOR, (0, 2), &bad));
    }
}
