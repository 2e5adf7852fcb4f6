//! Numbers generations and decides whether a prepared version becomes one. Today this process decides
//! alone.

use std::fmt::Debug;

use onnxd_proto::domain::model_name::ModelName;

use crate::models::{
    machine::events::{Decision, Proposal},
    workers::Boxed,
};

/// Decides on prepared versions.
pub trait Coordinator: Debug + Send + Sync {
    /// Decides on a proposal. May take any time: the update waits, and is aborted when onnxd stops. A
    /// number assigned after that is used up.
    fn propose<'a>(&'a self, model: &'a ModelName, proposal: Proposal) -> Boxed<'a, Decision>;
}

/// Accepts every proposal at once, under the next number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Coordinator for Alone {
    fn propose<'a>(&'a self, _model: &'a ModelName, proposal: Proposal) -> Boxed<'a, Decision> {
        Box::pin(std::future::ready(Ok(proposal.after + 1)))
    }
}
