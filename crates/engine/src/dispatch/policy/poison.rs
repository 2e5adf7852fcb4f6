//! What crashed two workers is not tried again for a while, whichever client sends it: otherwise one
//! client that repeats it keeps all workers down. [`Poison`] is pure: time comes in as an argument.
//!
//! An entry holds for the generation that it killed: the next one may be able to answer.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use onnxd_proto::{control_page::Slot, generation::Generation};
use sha2::{Digest, Sha256};

use crate::dispatch::item::Input;

/// How long the like of an item is refused.
pub(crate) const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Items that are known at once; the oldest gives way.
const KNOWN_MAX: usize = 64;

/// What the like of an item is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Likeness {
    slot: Slot,
    /// Compared first, so that hardly anything has to be hashed.
    bytes: usize,
    hash: [u8; 32],
}

/// What is refused.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    /// The oldest first.
    known: VecDeque<Known>,
}

#[derive(Debug)]
struct Known {
    likeness: Likeness,
    generation: Generation,
    until: Instant,
}

impl Poison {
    /// An item took too many workers of this generation with it.
    pub(crate) fn learn(
        &mut self,
        now: Instant,
        (slot, generation): (Slot, Generation),
        input: &Input,
    ) {
        let likeness = Likeness { slot, bytes: input.bytes(), hash: hash(input) };
        self.known.retain(|known| known.until > now && known.likeness != likeness);
        if self.known.len() >= KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(Known { likeness, generation, until: now + REFUSED_FOR });
    }

    /// Whether an input is like one that took workers of this generation with it.
    pub(crate) fn is(
        &self,
        now: Instant,
        (slot, generation): (Slot, Generation),
        input: &Input,
    ) -> bool {
        let bytes = input.bytes();
        let mut alike = self.known.iter().filter(|known| {
            known.until > now
                && known.generation == generation
                && (known.likeness.slot, known.likeness.bytes) == (slot, bytes)
        });
        let Some(first) = alike.next() else { return false };
        let hash = hash(input);
        std::iter::once(first).chain(alike).any(|known| known.likeness.hash == hash)
    }
}

/// What is asked, and of what. How the bytes lie in memory makes no difference.
fn hash(input: &Input) -> [u8; 32] {
    let mut hash = Sha256::new();
    // Ends where the bytes begin: JSON says so itself.
    hash.update(serde_json::to_vec(&input.ask).unwrap_or_default());
    input.parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use onnxd_proto::wire::ask::Ask;

    use super::*;

    fn input(skip_special: bool, parts: &[&'static str]) -> Input {
        let parts = parts.iter().map(|part| Bytes::from_static(part.as_bytes())).collect();
        Input { ask: Ask::Decode { skip_special }, parts }
    }

    #[test]
    fn the_like_of_what_killed_is_refused_for_a_while_and_nothing_else() {
        let now = Instant::now();
        let bad = input(true, &["poison"]);
        let mut poison = Poison::default();
        assert!(!poison.is(now, (1, 7), &bad));
        poison.learn(now, (1, 7), &bad);
        let last = now + REFUSED_FOR - Duration::from_millis(1);
        for at in [now, last] {
            assert!(poison.is(at, (1, 7), &bad));
            assert!(poison.is(at, (1, 7), &input(true, &["poi", "son"])), "the same bytes");
        }
        assert!(!poison.is(now, (1, 7), &input(true, &["poisoN"])), "other bytes");
        assert!(!poison.is(now, (1, 7), &input(false, &["poison"])), "another question");
        assert!(!poison.is(now, (2, 7), &bad), "another model");
        assert!(!poison.is(now, (1, 8), &bad), "another generation may be able to answer");
        assert!(!poison.is(now + REFUSED_FOR, (1, 7), &bad), "it may try again");
    }

    #[test]
    fn no_more_are_known_than_allowed_and_the_oldest_gives_way() {
        let now = Instant::now();
        let mut poison = Poison::default();
        let number = |number: usize| Input {
            ask: Ask::Decode { skip_special: true },
            parts: vec![Bytes::from(format!("{number:04}"))],
        };
        for count in 0..=KNOWN_MAX {
            poison.learn(now, (0, 1), &number(count));
        }
        assert_eq!(poison.known.len(), KNOWN_MAX);
        assert!(!poison.is(now, (0, 1), &number(0)));
        assert!((1..=KNOWN_MAX).all(|count| poison.is(now, (0, 1), &number(count))));
    }

    #[test]
    fn what_kills_again_is_known_once_and_for_longer() {
        let now = Instant::now();
        let bad = input(true, &["poison"]);
        let mut poison = Poison::default();
        poison.learn(now, (0, 1), &bad);
        let later = now + REFUSED_FOR / 2;
        poison.learn(later, (0, 2), &bad);
        assert_eq!(poison.known.len(), 1);
        assert!(poison.is(now + REFUSED_FOR, (0, 2), &bad));
    }
}
