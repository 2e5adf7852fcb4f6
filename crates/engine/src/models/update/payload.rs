//! The machine's payload in production: versions in the state directory, their facts and records.

use std::sync::Arc;

use onnxd_proto::domain::{Drift, Facts, Record};

use crate::models::{
    machine::events::Payload,
    store::{Staged, pins::PinnedVersion},
};

/// Versions in the state directory.
#[derive(Debug)]
pub(super) struct Versions;

impl Payload for Versions {
    type Version = PinnedVersion;
    type Staged = Staged;
    type Checked = CheckedFacts;
    type Record = Arc<Record>;
}

/// The results of checking a version, in this update or an earlier one.
#[derive(Debug)]
pub(super) struct CheckedFacts {
    pub facts: Box<Facts>,
    pub drift: Option<Drift>,
}
