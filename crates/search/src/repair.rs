//! Embeds documents that the serving version lacks. Updates leave none, so this is for what they do
//! not see: a start without search, a copied state directory, rows that other programs write to a
//! database; and for rollbacks while the index could not answer. Called by [`crate::searches`] and
//! [`crate::follow`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use onnxd_engine::{
    Engine, RequestContext,
    dispatch::Priority,
    engine::candidates,
    models::{
        indexes::{DocumentOptions, Embedder},
        registry::Model,
        workers::Boxed,
    },
};
use onnxd_proto::{
    domain::{Refusal, RefusalKind, Task},
    search::{FromIndex, IndexErrorKind, ToIndex},
};
use onnxd_telemetry::log_limit::LogLimit;
use tokio::{sync::watch, time};

use crate::{
    catalog::{Bound, Catalog, unexpected},
    embedding::embed,
    error::SearchError,
    reembed::Reembedding,
    writes::serving,
};

/// Documents that a search waits for. It is refused if there are more.
const AWAITED_MAX: u64 = 64;
/// How long a search waits. Other collections of the model may lack more.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// How a repair ended; `None` while it runs. The sender is dropped with its task.
type Repair = watch::Receiver<Option<Result<(), Refusal>>>;

/// The repairs of all models.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    /// By served name; some have ended.
    last: Mutex<HashMap<String, Repair>>,
    failures: LogLimit,
}

impl Repairs {
    /// Embeds what the serving version of a collection's model lacks. Waits for it if there is little.
    ///
    /// # Errors
    /// It takes longer, and goes on in the background; or the index or the model fails.
    pub(crate) async fn run(
        self: &Arc<Self>,
        (catalog, engine): (&Arc<Catalog>, &Arc<Engine>),
        (bound, model): (&Bound, &Arc<Model>),
    ) -> Result<(), SearchError> {
        let started = self.start((catalog, engine), (bound, model)).await?;
        let Some((missing, repair)) = started else { return Ok(()) };
        wait(missing, repair).await
    }

    /// Starts to embed what the serving version of a collection's model lacks, unless that runs already.
    /// Returns how many documents lack a vector, if any.
    ///
    /// # Errors
    /// The index fails. That embedding fails is logged.
    pub(crate) async fn start(
        self: &Arc<Self>,
        (catalog, engine): (&Arc<Catalog>, &Arc<Engine>),
        (bound, model): (&Bound, &Arc<Model>),
    ) -> Result<Option<(u64, Repair)>, SearchError> {
        let (collection, version) = (bound.name.clone(), serving(model));
        let message = ToIndex::Unembedded { collection, version: version.clone(), limit: 1 };
        let missing = match catalog.ask(message, Bytes::new()).await? {
            FromIndex::Unembedded(_, missing) => missing,
            other => return Err(unexpected(&other).into()),
        };
        if missing == 0 {
            return Ok(None);
        }
        let task = model.serving().map_or(Task::Embed, |(_, record)| record.facts.task);
        let (engine, of) = (Arc::clone(engine), Arc::clone(model));
        let embedder = Serving { engine, model: of, version, task };
        let (catalog, name) = (Arc::clone(catalog), model.name.to_string());
        let is_expected = bound.shows_table();
        let repair = async move {
            let message = "embedding documents that the serving version lacks";
            if is_expected {
                tracing::debug!(model = name, documents = missing, "{message}");
            } else {
                tracing::warn!(model = name, documents = missing, "{message}");
            }
            let (model, progress) = (name.as_str(), |_| {});
            let (catalog, candidate) = (&*catalog, &embedder);
            Reembedding { catalog, model, candidate, progress: &progress }.pass().await.map(drop)
        };
        Ok(Some((missing, self.share(model.name.as_str(), repair))))
    }

    /// Starts a repair of a model, or returns the one that runs. It goes on if no search waits.
    fn share(
        self: &Arc<Self>,
        model: &str,
        repair: impl Future<Output = Result<(), Refusal>> + Send + 'static,
    ) -> Repair {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = |last: &&Repair| last.borrow().is_none() && last.has_changed().is_ok();
        if let Some(running) = last.get(model).filter(runs) {
            return running.clone();
        }
        let (end, ended) = watch::channel(None);
        last.insert(model.to_owned(), ended.clone());
        let (repairs, model) = (Arc::clone(self), model.to_owned());
        tokio::spawn(async move {
            let result = repair.await;
            if let Err(refusal) = &result
                && let Some(suppressed) = repairs.failures.admit()
            {
                tracing::warn!(model, %refusal, suppressed, "failed to embed documents that the serving version lacks");
            }
            end.send_replace(Some(result));
        });
        ended
    }
}

/// Waits for a repair if few documents are missing.
async fn wait(missing: u64, mut repair: Repair) -> Result<(), SearchError> {
    let ended = async {
        // Without a result, its task panicked.
        let result = repair.wait_for(Option::is_some).await.ok()?.clone();
        result.map(|result| result.map_err(|refusal| refusal.message))
    };
    let limit = if missing <= AWAITED_MAX { WAIT_MAX } else { Duration::ZERO };
    let message = match time::timeout(limit, ended).await {
        Ok(Some(Ok(()))) => return Ok(()),
        Ok(Some(Err(message))) => message,
        Ok(None) => "embedding documents ended unexpectedly; the log says why".to_owned(),
        Err(_) => format!(
            "{missing} documents are being embedded for the serving version; try again later"
        ),
    };
    Err(IndexErrorKind::Storage.because(message).into())
}

/// Embeds by the serving version, as ordinary requests in the background do.
#[derive(Debug)]
struct Serving {
    engine: Arc<Engine>,
    model: Arc<Model>,
    version: String,
    task: Task,
}

impl Embedder for Serving {
    fn version(&self) -> &str {
        &self.version
    }

    fn embed(
        &self,
        texts: Vec<String>,
        options: DocumentOptions,
    ) -> Boxed<'_, Result<Vec<Bytes>, Refusal>> {
        Box::pin(async move {
            let context = RequestContext::new().with_priority(Priority::Background);
            let request = candidates::request(texts, options);
            let embedded = embed(&self.engine, &context, &self.model, request).await;
            let (_, answer) =
                embedded.map_err(|error| RefusalKind::Internal.because(error.message()))?;
            if answer.origin.record.version != self.version {
                return Err(RefusalKind::Superseded.because("the model was updated meanwhile"));
            }
            Ok(answer.output)
        })
    }

    fn task(&self) -> Task {
        self.task
    }

    fn concurrency(&self) -> usize {
        self.engine.workers()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn failed(refused: Result<(), SearchError>) -> String {
        refused.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn searches_share_a_repair_and_wait_if_little_is_missing() {
        let repairs = Arc::new(Repairs::default());
        let (end, ended) = oneshot::channel();
        let first = repairs.share("m", async { ended.await.unwrap() });
        let second = repairs.share("m", async { panic!("one repair runs") });
        let other = repairs.share("n", async { Ok(()) });
        wait(1, other).await.unwrap();
        let many = failed(wait(65, second.clone()).await);
        assert!(many.contains("65 documents are being embedded"), "{many}");
        let waiting = tokio::spawn(async { tokio::join!(wait(64, first), wait(1, second)) });
        end.send(Ok(())).unwrap();
        let (first, second) = waiting.await.unwrap();
        assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    }

    #[tokio::test]
    async fn failed_repair_says_why_and_the_next_one_starts() {
        let repairs = Arc::new(Repairs::default());
        let refusal = RefusalKind::Internal.because("the disk is full");
        let first = repairs.share("m", async { Err(refusal) });
        assert_eq!(failed(wait(1, first).await), "the disk is full");
        let second = repairs.share("m", async { panic!("for this test") });
        assert!(failed(wait(1, second).await).contains("ended unexpectedly"));
        let third = repairs.share("m", async { Ok(()) });
        assert!(wait(1, third).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn search_does_not_wait_for_ever() {
        let repairs = Arc::new(Repairs::default());
        let running = repairs.share("m", std::future::pending());
        assert!(failed(wait(1, running).await).contains("try again later"));
    }
}
