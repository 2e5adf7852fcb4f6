//! Numbers generations and decides whether a prepared version becomes one. Today this process decides
//! alone.

use std::fmt::Debug;

use onnxd_proto::{
    domain::{RefusalKind, model_name::ModelName},
    generation::GENERATION_MAX,
};

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
pub struct LocalCoordinator;

impl Coordinator for LocalCoordinator {
    fn propose<'a>(&'a self, model: &'a ModelName, proposal: Proposal) -> Boxed<'a, Decision> {
        let next = proposal.after.checked_add(1).filter(|next| *next <= GENERATION_MAX);
        let decision = next.ok_or_else(|| {
            let last = proposal.after;
            RefusalKind::Internal.because(format!(
                "{model} has used its last generation, {last}; if its number is wrong, stop onnxd and remove that record from the state directory"
            ))
        });
        Box::pin(std::future::ready(decision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_number_is_followed_by_a_refusal() {
        let model = "m".parse().unwrap();
        let next = async |after| {
            let proposal = Proposal { after, version: String::new() };
            LocalCoordinator.propose(&model, proposal).await
        };
        assert_eq!(next(GENERATION_MAX - 1).await, Ok(GENERATION_MAX));
        for after in [GENERATION_MAX, u64::MAX] {
            let refused = next(after).await.unwrap_err();
            assert!(refused.message.contains("last generation"), "{refused}");
        }
    }
}
