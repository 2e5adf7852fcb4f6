//! The time after a commit in which failures of workers bring the old version back. Pure; part of
//! a model's [`machine`](crate::models::machine).

use std::time::Instant;

use onnxd_proto::generation::Generation;

/// Failures that send a version back.
const FAILURES: u32 = 2;

/// A version that has just begun to serve.
#[derive(Debug)]
pub(super) struct Probation<V> {
    /// What serves.
    pub generation: Generation,
    /// Its content.
    pub version: V,
    /// What served before.
    pub back_to: V,
    until: Instant,
    failures: u32,
}

impl<V: Clone + Eq> Probation<V> {
    /// The probation from now on: `version` begins to serve as `generation` where `back_to` did
    /// and `running` was the probation.
    pub(super) fn after(
        running: Option<Self>,
        generation: Generation,
        version: &V,
        back_to: Option<&V>,
        until: Instant,
    ) -> Option<Self> {
        // What has failed, or has begun to, is nothing to go back to.
        let failing = running.as_ref().filter(|running| running.failures > 0);
        let back_to = match (failing, back_to) {
            (Some(failing), Some(back_to)) if failing.version == *back_to => {
                Some(failing.back_to.clone())
            }
            (_, back_to) => back_to.cloned(),
        };
        match (running, back_to) {
            // The same content under a new number: what was counted still counts.
            (Some(running), _) if running.version == *version => {
                Some(Self { generation, ..running })
            }
            (_, Some(back_to)) if back_to != *version => {
                let version = version.clone();
                Some(Self { generation, version, back_to, until, failures: 0 })
            }
            // There is nothing that it could go back to.
            _ => None,
        }
    }

    /// A worker failed because of what it served or loaded in this generation.
    pub(super) fn failed(&mut self, generation: Generation) {
        self.failures += u32::from(self.generation == generation);
    }

    /// The same with nothing counted yet.
    pub(super) fn again(self) -> Self {
        Self { failures: 0, ..self }
    }

    /// Whether the version has to go.
    pub(super) fn has_failed(&self) -> bool {
        self.failures >= FAILURES
    }

    /// Whether failures do not count any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// `version` on probation as generation 2, with so many failures; it took the place of `back_to`.
    fn probation(version: &str, back_to: &str, failures: u32) -> Probation<String> {
        let (version, back_to) = (version.to_owned(), back_to.to_owned());
        Probation { generation: 2, version, back_to, until: Instant::now(), failures }
    }

    /// Where one that follows `running` goes back to, and what is counted for it already.
    fn after(running: Probation<String>, version: &str, back_to: &str) -> Option<(String, u32)> {
        let until = running.until + Duration::from_secs(1);
        let version = version.to_owned();
        let next = Probation::after(Some(running), 3, &version, Some(&back_to.to_owned()), until)?;
        assert_eq!((next.generation, &next.version), (3, &version));
        Some((next.back_to, next.failures))
    }

    #[test]
    fn it_goes_back_to_what_served_before_unless_that_has_begun_to_fail() {
        assert_eq!(after(probation("b", "a", 0), "c", "b"), Some(("b".into(), 0)));
        assert_eq!(after(probation("b", "a", 1), "c", "b"), Some(("a".into(), 0)));
        assert_eq!(after(probation("b", "a", 1), "c", "x"), Some(("x".into(), 0)));
        assert_eq!(after(probation("b", "a", 1), "a", "b"), None, "there is nothing else");
        let until = Instant::now();
        assert!(Probation::<String>::after(None, 1, &"a".into(), None, until).is_none());
        assert!(
            Probation::<String>::after(None, 1, &"a".into(), Some(&"a".into()), until).is_none()
        );
    }

    #[test]
    fn the_same_content_under_a_new_number_is_no_new_beginning() {
        assert_eq!(after(probation("b", "a", 1), "b", "b"), Some(("a".into(), 1)));
        let running = probation("b", "a", 1);
        let (begin, until) = (running.until, running.until + Duration::from_secs(1));
        let next = Probation::after(Some(running), 3, &"b".into(), Some(&"b".into()), until);
        let mut next = next.unwrap();
        assert!(next.is_over(begin), "nor does it take longer");
        next.failed(2);
        assert!(!next.has_failed(), "of another generation");
        next.failed(3);
        assert!(next.has_failed());
        assert!(!next.again().has_failed());
    }
}
