//! The time after a commit in which worker failures trigger a rollback. Pure; part of a model's
//! [`machine`](crate::models::machine).

use std::time::Instant;

use onnxd_proto::generation::Generation;

/// Failures that trigger a rollback.
const FAILURES: u32 = 2;

/// A version that was committed recently.
#[derive(Debug)]
pub(super) struct Probation<V> {
    /// The serving generation.
    pub generation: Generation,
    /// Its version.
    pub version: V,
    /// The version to roll back to.
    pub rollback_to: V,
    until: Instant,
    failures: u32,
}

impl<V: Clone + Eq> Probation<V> {
    /// Returns the probation after a commit in which `version` replaced `rollback_to` as `generation`.
    /// `running` is the probation so far.
    pub(super) fn after(
        running: Option<Self>,
        generation: Generation,
        version: &V,
        rollback_to: Option<&V>,
        until: Instant,
    ) -> Option<Self> {
        // Never roll back to a version that has failed even once.
        let failing = running.as_ref().filter(|running| running.failures > 0);
        let rollback_to = match (failing, rollback_to) {
            (Some(failing), Some(rollback_to)) if failing.version == *rollback_to => {
                Some(failing.rollback_to.clone())
            }
            (_, rollback_to) => rollback_to.cloned(),
        };
        match (running, rollback_to) {
            // Same content under a new number: keep the failure count.
            (Some(running), _) if running.version == *version => {
                Some(Self { generation, ..running })
            }
            (_, Some(rollback_to)) if rollback_to != *version => {
                let version = version.clone();
                Some(Self { generation, version, rollback_to, until, failures: 0 })
            }
            // There is no version to roll back to.
            _ => None,
        }
    }

    /// Records that a worker failed while serving or loading this generation.
    pub(super) fn failed(&mut self, generation: Generation) {
        self.failures += u32::from(self.generation == generation);
    }

    /// Restarts the probation with a failure count of zero.
    pub(super) fn restarted(self) -> Self {
        Self { failures: 0, ..self }
    }

    /// Returns whether the version must be rolled back.
    pub(super) fn has_failed(&self) -> bool {
        self.failures >= FAILURES
    }

    /// Returns whether failures no longer count.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Returns a probation of `version` as generation 2, which replaced `rollback_to` and failed `failures` times.
    fn probation(version: &str, rollback_to: &str, failures: u32) -> Probation<String> {
        let (version, rollback_to) = (version.to_owned(), rollback_to.to_owned());
        Probation { generation: 2, version, rollback_to, until: Instant::now(), failures }
    }

    /// Returns the rollback target and failure count of the probation that follows `running`.
    fn after(
        running: Probation<String>,
        version: &str,
        rollback_to: &str,
    ) -> Option<(String, u32)> {
        let until = running.until + Duration::from_secs(1);
        let version = version.to_owned();
        let next =
            Probation::after(Some(running), 3, &version, Some(&rollback_to.to_owned()), until)?;
        assert_eq!((next.generation, &next.version), (3, &version));
        Some((next.rollback_to, next.failures))
    }

    #[test]
    fn rollback_target_is_the_previous_version_unless_it_failed() {
        assert_eq!(after(probation("b", "a", 0), "c", "b"), Some(("b".into(), 0)));
        assert_eq!(after(probation("b", "a", 1), "c", "b"), Some(("a".into(), 0)));
        assert_eq!(after(probation("b", "a", 1), "c", "x"), Some(("x".into(), 0)));
        assert_eq!(after(probation("b", "a", 1), "a", "b"), None, "no other version exists");
        let until = Instant::now();
        assert!(Probation::<String>::after(None, 1, &"a".into(), None, until).is_none());
        assert!(
            Probation::<String>::after(None, 1, &"a".into(), Some(&"a".into()), until).is_none()
        );
    }

    #[test]
    fn same_content_under_a_new_number_continues_the_probation() {
        assert_eq!(after(probation("b", "a", 1), "b", "b"), Some(("a".into(), 1)));
        let running = probation("b", "a", 1);
        let (begin, until) = (running.until, running.until + Duration::from_secs(1));
        let next = Probation::after(Some(running), 3, &"b".into(), Some(&"b".into()), until);
        let mut next = next.unwrap();
        assert!(next.is_over(begin), "the deadline stays the same");
        next.failed(2);
        assert!(!next.has_failed(), "the failure belongs to another generation");
        next.failed(3);
        assert!(next.has_failed());
        assert!(!next.restarted().has_failed());
    }
}
