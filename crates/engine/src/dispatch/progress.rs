//! Records how far a request came, for the spans of requests that fail. A middleware that records a
//! request runs the handler in the [scope](RequestProgress::scope) of a [`RequestProgress`], and
//! the dispatcher notes each phase there. The contracts in between need not pass it on: it is local
//! to the task.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use onnxd_proto::wire::operation::Rejection;

use crate::dispatch::{
    gather::{Answer, GatherError},
    item::Phases,
};

tokio::task_local! {
    static CURRENT: RequestProgress;
}

/// The progress of one request. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct RequestProgress(Arc<Mutex<Reached>>);

/// How far a request came.
#[derive(Clone, Debug, Default)]
pub struct Reached {
    /// When its first item was submitted.
    pub submitted: Option<Instant>,
    /// When a worker first received one of its items.
    pub delivered: Option<Instant>,
    /// Its phases, once all items are answered.
    pub answered: Option<Phases>,
    /// Why its items were not answered.
    pub failure: Option<Failure>,
}

/// Why the items of a request were not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A word for the kind of failure.
    pub kind: &'static str,
    /// What went wrong, for people.
    pub message: String,
    /// Whether the worker rejected an item before inference.
    pub is_tokenizing: bool,
    /// Whether the server or the model is to blame, and not the request.
    pub is_fault: bool,
}

impl RequestProgress {
    /// Runs a request's handler and records its progress here.
    pub async fn scope<F: Future>(&self, handler: F) -> F::Output {
        CURRENT.scope(self.clone(), handler).await
    }

    /// Returns how far the request came until now.
    pub fn reached(&self) -> Reached {
        self.lock().clone()
    }

    /// Notes that this task submits items of a request. Returns the request's progress for them, if
    /// it is recorded.
    pub(super) fn submitted(at: Instant) -> Option<Self> {
        let progress = CURRENT.try_with(Self::clone).ok()?;
        let mut reached = progress.lock();
        reached.submitted.get_or_insert(at);
        reached.answered = None;
        drop(reached);
        Some(progress)
    }

    /// Notes that a worker receives an item now.
    pub(super) fn delivered(&self) {
        self.lock().delivered.get_or_insert_with(Instant::now);
    }

    /// Notes the result of all items of the request that this task handles, if it is recorded.
    pub(super) fn ended(result: &Result<Answer, GatherError>) {
        // Fails if the request is not recorded.
        let _ = CURRENT.try_with(|progress| {
            let mut reached = progress.lock();
            match result {
                Ok(answer) => reached.answered = Some(answer.phases),
                Err(error) => reached.failure = Some(failure(error)),
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Reached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(error: &GatherError) -> Failure {
    let (kind, is_tokenizing, is_fault) = match error {
        GatherError::Overloaded { .. } => ("overloaded", false, false),
        GatherError::Timeout(_) => ("timeout", false, true),
        GatherError::Stopped => ("unavailable", false, true),
        GatherError::Poisonous => ("crash", false, true),
        GatherError::Rejected(rejection) => match rejection {
            Rejection::Inference(_) => ("inference", false, true),
            Rejection::NotLoaded(_) => ("not_loaded", false, true),
            Rejection::Tensors(_) | Rejection::Unfit(_) | Rejection::WrongTask(_) => {
                ("rejected", false, false)
            }
            Rejection::Tokenizer(_)
            | Rejection::TooLong { .. }
            | Rejection::TokenId { .. }
            | Rejection::Prompt { .. } => ("rejected", true, false),
            Rejection::Dimensions { .. } => ("rejected", false, false),
        },
    };
    Failure { kind, message: error.to_string(), is_tokenizing, is_fault }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn progress_is_noted_inside_the_scope_only() {
        let start = Instant::now();
        assert!(RequestProgress::submitted(start).is_none());
        let progress = RequestProgress::default();
        progress
            .scope(async {
                let current = RequestProgress::submitted(start).unwrap();
                RequestProgress::submitted(start + Duration::from_secs(1));
                current.delivered();
                RequestProgress::ended(&Err(GatherError::Timeout(Duration::from_secs(2))));
            })
            .await;
        let reached = progress.reached();
        assert_eq!(reached.submitted, Some(start), "the first time");
        assert!(reached.delivered.is_some() && reached.answered.is_none());
        let failure = reached.failure.unwrap();
        assert_eq!((failure.kind, failure.is_fault), ("timeout", true));
        assert_eq!(failure.message, "the request took longer than 2 s");
    }
}
