//! The time after a commit in which failures of workers bring the old version back. Pure; part of
//! a model's [`line`](super::line).

use std::time::Instant;

use onnxd_proto::generation::Generation;

use super::events::Version;

/// Failures that send a version back.
const FAILURES: u32 = 2;

/// A version that has just begun to serve.
#[derive(Debug)]
pub(super) struct Probation {
    /// What serves.
    pub generation: Generation,
    /// Its content.
    pub version: Version,
    /// What served before.
    pub back_to: Version,
    until: Instant,
    failures: u32,
}

impl Probation {
    /// The probation from now on: `version` begins to serve as `generation` where `back_to` did
    /// and `running` was the probation.
    pub(super) fn after(
        running: Option<Self>,
        generation: Generation,
        version: &Version,
        back_to: Option<&Version>,
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
