//! Who numbers generations and decides whether a prepared version becomes one. This process does,
//! as long as it serves alone.

use std::fmt::Debug;

use onnxd_proto::domain::model_name::ModelName;

use crate::models::{
    machine::events::{Decision, Proposal},
    workers::Boxed,
};

/// Decides on prepared versions.
pub trait Coordinator: Debug + Send + Sync {
    /// Decides. It may take as long as it needs to: the update waits, and is given up when onnxd
    /// stops; a number that is decided on then is used up.
    fn propose<'a>(&'a self, model: &'a ModelName, proposal: Proposal) -> Boxed<'a, Decision>;
}

/// Takes every proposal at once, under the next number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Coordinator for Alone {
    fn propose<'a>(&'a self, _model: &'a ModelName, proposal: Proposal) -> Boxed<'a, Decision> {
        Box::pin(std::future::ready(Ok(proposal.after + 1)))
    }
}
