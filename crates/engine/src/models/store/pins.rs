//! Protects versions in use from removal. Code that works with a version holds a clone of its
//! [`PinnedVersion`]; [retirement](super::Store::retire) skips pinned versions.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

/// The pins of all versions.
#[derive(Debug, Default)]
pub(super) struct Pins(Counts);

/// The number of pins of each version.
type Counts = Arc<Mutex<HashMap<String, usize>>>;

/// A version's digest. The version is not removed while this or a clone exists.
#[derive(Clone, Debug)]
pub struct PinnedVersion(Arc<Pin>);

#[derive(Debug)]
struct Pin {
    version: String,
    counts: Counts,
}

impl Pins {
    pub(super) fn pin(&self, version: &str) -> PinnedVersion {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(version.to_owned()).or_default() += 1;
        let (version, counts) = (version.to_owned(), Arc::clone(&self.0));
        PinnedVersion(Arc::new(Pin { version, counts }))
    }

    pub(super) fn all(&self) -> HashSet<String> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.keys().cloned().collect()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.version) {
            *count -= 1;
            counts.retain(|_, count| *count > 0);
        }
    }
}

impl AsRef<str> for PinnedVersion {
    fn as_ref(&self) -> &str {
        &self.0.version
    }
}

impl PartialEq for PinnedVersion {
    fn eq(&self, other: &Self) -> bool {
        self.0.version == other.0.version
    }
}

impl Eq for PinnedVersion {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_pinned_until_the_last_clone_is_dropped() {
        let pins = Pins::default();
        let (one, other) = (pins.pin("v"), pins.pin("v"));
        assert_eq!(one, other);
        let clone = one.clone();
        drop((one, other));
        assert_eq!(pins.all(), HashSet::from(["v".to_owned()]));
        drop(clone);
        assert!(pins.all().is_empty());
    }
}
