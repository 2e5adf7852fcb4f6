//! The step that completes the indexes of a model for a version, run by a [`Driver`]: embeds what lacks a
//! vector of it, holds back writes until the commit, and reports the progress.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use onnxd_proto::domain::{
    Drift, Facts, IndexStatus, Load, Output, Record, Refusal, RefusalKind, Step,
};

use crate::models::{
    indexes::{Copies, Fence, IndexProgress, IndexedVersion, Indexes},
    machine::events::{Job, Target},
    registry::Model,
    store::{Store, pins::PinnedVersion},
    update::{
        driver::{Driver, Input},
        unfinished::FAR,
    },
};

/// How often progress is reported at most.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// Two versions whose embeddings of every fixed text have at least this cosine are in one space. Two
/// computations of the same version differ as much.
const SAME_SPACE_COSINE_MIN: f64 = 0.9999;

/// What a driver knows about the indexes of its model.
#[derive(Debug, Default)]
pub(super) struct Indexing {
    /// Holds back writes until the commit.
    pub fence: Option<Fence>,
    /// What is known about the candidate.
    candidate: Option<(Facts, Option<Drift>)>,
    /// Keeps indexes from being removed while they are completed.
    lock: Arc<tokio::sync::Mutex<()>>,
    /// The first and the last report of the running step.
    first: Option<(Instant, IndexProgress)>,
    last: IndexProgress,
    /// The version whose vectors are kept by the running step.
    reused_from: Option<String>,
}

impl Indexing {
    /// Notes the facts of the candidate and its drift from the serving version, if measured now.
    pub(super) fn found(&mut self, facts: &Facts, drift: Option<Drift>) {
        self.candidate = Some((facts.clone(), drift));
    }
}

impl Driver {
    /// Completes the indexes for a version.
    pub(super) fn index(&mut self, job: &Job, version: PinnedVersion) {
        let Some((facts, drift)) = self.indexing.candidate.take() else {
            let message = "internal error: nothing is known about the candidate";
            let refusal = RefusalKind::Internal.because(message);
            return self.begin(async { Input::Indexed(Err(refusal)) });
        };
        let digest = version.as_ref().to_owned();
        let configured_source = self.model.source.clone();
        let record = Record { version: digest, configured_source, facts, drift };
        let serving = self.model.last().map(|(_, record)| record);
        let Job { reuse_index: is_requested, force: is_forced, .. } = *job;
        let reuse = Reuse { store: &self.deps.store, is_requested, is_forced };
        let is_needed = self.deps.indexes.has_documents(self.model.name.as_str());
        let reused = match reuse.from(&record, serving.as_deref().filter(|_| is_needed)) {
            Ok(reused) => reused,
            Err(refusal) => return self.begin(async { Input::Indexed(Err(refusal)) }),
        };
        if let Some(from) = &reused {
            let (model, requested) = (&self.model.name, job.reuse_index);
            tracing::info!(%model, from, requested, "the vectors of the serving version are kept");
        }
        // Those of a generation that served were accepted then.
        let is_accepted = matches!(job.target, Target::Generation(_) | Target::Version(_))
            || serving.is_some_and(|serving| serving.version == record.version);
        (self.indexing.first, self.indexing.last) = (None, IndexProgress::default());
        self.indexing.reused_from.clone_from(&reused);
        let lock = Arc::clone(&self.indexing.lock);
        let (indexes, inputs) = (Arc::clone(&self.deps.indexes), self.inputs.clone());
        let version =
            IndexedVersion { model: self.model.name.clone(), pin: version, record: record.into() };
        let model = version.model.clone();
        let embedder = self.deps.candidates.embedder(version);
        self.begin(async move {
            let _removes_nothing = lock.lock().await;
            let reported = Mutex::new(None);
            let progress = |progress: IndexProgress| {
                if is_due(&reported, progress) {
                    // A later report follows if the queue is full.
                    let _ = inputs.try_send(Input::Indexing(progress));
                }
            };
            let copies = match &reused {
                Some(from) => Copies::From(from),
                None if is_accepted => Copies::Kept,
                None => Copies::Removed,
            };
            Input::Indexed(indexes.complete(model.as_str(), &*embedder, copies, &progress).await)
        });
    }

    /// Reports the progress to the caller, to `status` and to the metrics.
    pub(super) fn report_indexing(&mut self, progress: IndexProgress) {
        let now = Instant::now();
        let (start, first) = *self.indexing.first.get_or_insert((now, progress));
        let embedded = progress.done.saturating_sub(self.indexing.last.done.max(first.done));
        self.indexing.last = progress;
        let metrics = &self.deps.metrics.model(self.model.slot).index;
        metrics.embedded(embedded, progress.total.saturating_sub(progress.done));
        let status = status(progress, first, now.duration_since(start));
        self.report(Step::Indexing(status));
        self.model.set_indexing(Some(status));
    }

    /// Ends the step. The fence is held until the machine lets go.
    pub(super) fn indexed(&mut self, result: Result<Fence, Refusal>) -> Result<(), Refusal> {
        self.end_indexing();
        let (model, documents) = (&self.model.name, self.indexing.last.total);
        let reused_from = self.indexing.reused_from.take();
        match result {
            Ok(fence) => {
                self.indexing.fence = Some(fence);
                if documents > 0 || reused_from.is_some() {
                    let seconds = self.step_start.elapsed().as_secs_f64();
                    tracing::info!(%model, documents, seconds, "the indexes are complete");
                    self.report(Step::Indexed { documents, reused_from, seconds });
                }
                Ok(())
            }
            Err(refusal) => {
                let reason = refusal.message.as_str();
                tracing::warn!(%model, reason, "the indexes are not complete for a version");
                let message = format!("the documents cannot be embedded again: {reason}");
                Err(refusal.with_message(message))
            }
        }
    }

    /// Reports that nothing is being embedded any more.
    pub(super) fn end_indexing(&self) {
        self.model.set_indexing(None);
        self.deps.metrics.model(self.model.slot).index.ended();
    }

    /// Removes the indexes of versions that are not kept any more, once none is completed.
    pub(super) fn retire_indexes(&self) -> impl Future<Output = ()> + Send + 'static {
        let (store, registry) = (Arc::clone(&self.deps.store), Arc::clone(&self.deps.registry));
        let (indexes, model) = (Arc::clone(&self.deps.indexes), self.model.name.clone());
        let lock = Arc::clone(&self.indexing.lock);
        let background = self.deps.background.clone();
        async move {
            let _completes_nothing = lock.lock().await;
            let kept = move || store.kept(registry.recently_served());
            match background.run(kept).await {
                Ok(versions) => indexes.keep(model.as_str(), versions).await,
                Err(refusal) => tracing::warn!(%model, %refusal, "old indexes are not removed"),
            }
        }
    }
}

/// Requires that an update of a model with documents is loaded ahead.
///
/// # Errors
/// It is lazy: searches would wait for the load.
pub(super) fn require_ahead(
    indexes: &dyn Indexes,
    model: &Model,
    job: &Job,
) -> Result<(), Refusal> {
    let name = model.name.as_str();
    let is_lazy = job.load == Load::Lazy && job.target != Target::Nothing;
    if !is_lazy || !indexes.has_documents(name) {
        return Ok(());
    }
    Err(RefusalKind::Contract.because(format!(
        "--load lazy is not possible while collections are bound to {name}, or are not listed yet: searches would wait for the load after the commit; update with --load ahead"
    )))
}

/// Returns whether progress is due, and notes that it is reported. The end is always reported.
fn is_due(reported: &Mutex<Option<Instant>>, progress: IndexProgress) -> bool {
    let mut reported = reported.lock().unwrap_or_else(PoisonError::into_inner);
    let is_due = reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL)
        || progress.done == progress.total;
    if is_due {
        *reported = Some(Instant::now());
    }
    is_due
}

/// Returns the progress with its rate since `first`, which was `elapsed` ago.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn status(progress: IndexProgress, first: IndexProgress, elapsed: Duration) -> IndexStatus {
    let IndexProgress { done, total } = progress;
    let (embedded, seconds) = (done.saturating_sub(first.done) as f64, elapsed.as_secs_f64());
    let per_second = (embedded > 0.0 && seconds > 0.0).then(|| embedded / seconds);
    let seconds_left = per_second.map(|rate| total.saturating_sub(done) as f64 / rate);
    IndexStatus { done, of: total, per_second, seconds_left }
}

/// Decides whether the vectors of the serving version are also the candidate's.
struct Reuse<'a> {
    store: &'a Store,
    /// The operator says that both are in one space.
    is_requested: bool,
    /// The operator insists, whatever the check has measured.
    is_forced: bool,
}

impl Reuse<'_> {
    /// Returns the version whose vectors are kept, if any.
    ///
    /// # Errors
    /// It is requested, but the vectors have different shapes, or the check has shown that they are in
    /// different spaces.
    fn from(
        &self,
        candidate: &Record,
        serving: Option<&Record>,
    ) -> Result<Option<String>, Refusal> {
        let Some(serving) = serving.filter(|serving| serving.version != candidate.version) else {
            return Ok(None);
        };
        let (output, before) = (candidate.facts.output(), serving.facts.output());
        if output != before || !matches!(output, Output::Dense { .. }) {
            if !self.is_requested {
                return Ok(None);
            }
            let message = "--reuse-index: the candidate's vectors have another shape than the serving version's; update without it";
            return Err(RefusalKind::Contract.because(message));
        }
        let mean_cosine = candidate.drift.map(|drift| drift.mean_cosine);
        if let Some(mean_cosine) = mean_cosine.filter(|mean| *mean < FAR)
            && self.is_requested
            && !self.is_forced
        {
            let message = format!(
                "--reuse-index: the embeddings are far from those of the serving version (mean cosine {mean_cosine:.4}), so searches would compare vectors of different spaces; update without it, or add --force to keep the vectors all the same"
            );
            return Err(RefusalKind::Contract.because(message));
        }
        let is_same = self.is_requested
            || is_same_space(candidate, &serving.facts)
                && self.store.has_same_settings(&candidate.version, &serving.version);
        Ok(is_same.then(|| serving.version.clone()))
    }
}

/// Returns whether the check has shown that a candidate computes the vectors of the serving version.
/// The fixed texts are compared by their directions, so the lengths must be 1.
fn is_same_space(candidate: &Record, serving: &Facts) -> bool {
    let Record { facts, drift, .. } = candidate;
    let is_near = drift.is_some_and(|drift| drift.min_cosine >= SAME_SPACE_COSINE_MIN);
    is_near
        && facts.normalize
        && serving.normalize
        && facts.max_tokens == serving.max_tokens
        && facts.prompts == serving.prompts
        && facts.switches == serving.switches
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
