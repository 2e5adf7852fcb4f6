//! What an update consists of here, which the machine moves from step to step.

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
    type Checked = Known;
    type Record = Arc<Record>;
}

/// What a check, this one or an earlier one, found out about a version.
#[derive(Debug)]
pub(super) struct Known {
    pub facts: Box<Facts>,
    pub drift: Option<Drift>,
}
