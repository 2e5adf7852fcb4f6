//! Which version issued a vector. Clients embed a text and then send the vector back to a search;
//! nothing in a vector says which version made it, so recently issued ones are remembered. Called by
//! [`super::texts`].

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use onnxd_proto::domain::Record;

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
    young: HashMap<u64, Arc<Record>>,
    old: HashMap<u64, Arc<Record>>,
}

impl Issued {
    /// Remembers vectors from now on.
    pub(super) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Remembers vectors of one version.
    pub(super) fn remember(&self, record: &Arc<Record>, vectors: &[Bytes]) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let hashes: Vec<u64> = vectors.iter().map(|vector| self.hasher.hash_one(vector)).collect();
        let mut ages = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        for hash in hashes {
            if ages.young.len() >= REMEMBERED {
                ages.old = std::mem::take(&mut ages.young);
            }
            ages.young.insert(hash, Arc::clone(record));
        }
    }

    /// Returns the version that issued this vector last, if it is remembered.
    pub(super) fn find(&self, vector: &Bytes) -> Option<String> {
        let hash = self.hasher.hash_one(vector);
        let ages = self.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        let record = ages.young.get(&hash).or_else(|| ages.old.get(&hash))?;
        Some(record.version.clone())
    }
}

#[cfg(test)]
mod tests {
    use onnxd_proto::domain::{Facts, Task};

    use super::*;

    fn record(version: &str) -> Arc<Record> {
        let configured_source = "/m".parse().unwrap();
        let facts = Facts::new(Task::Embed);
        Arc::new(Record { version: version.to_owned(), configured_source, facts, drift: None })
    }

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
        issued.remember(&record("a"), &[vector(0)]);
        issued.remember(&record("b"), &(1..=REMEMBERED).map(vector).collect::<Vec<_>>());
        assert_eq!(issued.find(&vector(0)).as_deref(), Some("a"));
        issued.remember(
            &record("b"),
            &(0..2 * REMEMBERED).map(|n| vector(n + REMEMBERED)).collect::<Vec<_>>(),
        );
        assert_eq!(issued.find(&vector(0)), None);
    }

    #[test]
    fn the_last_version_that_issued_a_vector_counts() {
        let issued = issued();
        issued.remember(&record("a"), &[vector(1)]);
        issued.remember(&record("b"), &[vector(1)]);
        assert_eq!(issued.find(&vector(1)).as_deref(), Some("b"));
    }
}
