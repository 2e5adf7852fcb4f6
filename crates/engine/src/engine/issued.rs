//! Which version issued a vector. Clients embed a text and then send the vector back to a search;
//! nothing in a vector says which version made it, so recently issued ones are remembered. Called by
//! [`super::texts`], and by search for the vectors that it returns.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

/// Vectors of each of two ages. A vector is remembered for at least this many others.
const REMEMBERED: usize = 1 << 16;

/// Recently issued vectors, by hash.
#[derive(Debug, Default)]
pub(super) struct Issued {
    /// Whether anyone will ask.
    is_on: AtomicBool,
    hasher: RandomState,
    vectors: Mutex<Ages>,
}

#[derive(Debug, Default)]
struct Ages {
    young: HashMap<u64, Arc<str>>,
    old: HashMap<u64, Arc<str>>,
}

impl Issued {
    /// Remembers vectors from now on.
    pub(super) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Remembers vectors of one version.
    pub(super) fn remember<'v>(&self, version: &str, vectors: impl Iterator<Item = &'v Bytes>) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let version: Arc<str> = version.into();
        let hashes: Vec<u64> = vectors.map(|vector| self.hasher.hash_one(vector)).collect();
        let mut ages = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        for hash in hashes {
            if ages.young.len() >= REMEMBERED {
                ages.old = std::mem::take(&mut ages.young);
            }
            ages.young.insert(hash, Arc::clone(&version));
        }
    }

    /// Returns the version that issued this vector last, if it is remembered.
    pub(super) fn find(&self, vector: &Bytes) -> Option<String> {
        let hash = self.hasher.hash_one(vector);
        let ages = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        let version = ages.young.get(&hash).or_else(|| ages.old.get(&hash))?;
        Some(version.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued() -> Issued {
        let issued = Issued::default();
        issued.turn_on();
        issued
    }

    fn vector(number: usize) -> Bytes {
        number.to_le_bytes().to_vec().into()
    }

    #[test]
    fn a_vector_is_remembered_for_as_many_others_as_promised() {
        let issued = issued();
        let vectors = |numbers: std::ops::Range<usize>| numbers.map(vector).collect::<Vec<_>>();
        issued.remember("a", vectors(0..1).iter());
        issued.remember("b", vectors(1..REMEMBERED + 1).iter());
        assert_eq!(issued.find(&vector(0)).as_deref(), Some("a"));
        issued.remember("b", vectors(REMEMBERED..3 * REMEMBERED).iter());
        assert_eq!(issued.find(&vector(0)), None);
    }

    #[test]
    fn the_last_version_that_issued_a_vector_counts() {
        let issued = issued();
        issued.remember("a", [vector(1)].iter());
        issued.remember("b", [vector(1)].iter());
        assert_eq!(issued.find(&vector(1)).as_deref(), Some("b"));
    }
}
