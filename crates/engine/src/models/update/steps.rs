//! The steps of updates and unloads, run by a [`Driver`]. Each feeds its result to the machine.

use std::{future::Future, sync::Arc, time::Duration};

use onnxd_proto::{
    control_page::Slot,
    domain::{
        Checked, Facts, Guess, Output, Record, Refusal, RefusalKind, Shortened,
        model_name::ModelName,
    },
    generation::Generation,
};
use onnxd_telemetry::metrics::Metrics;
use tokio::{sync::mpsc, time};
use tokio_util::sync::CancellationToken;

use crate::models::{
    disk::io_refusal,
    gate::Presence,
    machine::events::{Content, Event, Job},
    sources::{Follow, Transfer},
    store::{Staged, pins::PinnedVersion},
    update::{
        driver::{Driver, Input},
        payload::CheckedFacts,
        resolve::{ResolvedContent, require_compatible, resolve},
        unfinished,
    },
};

/// How long an unload waits for workers to drop the model. Slower ones drop it later.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(60);

impl Driver {
    /// Fetches the source or finds the version.
    pub(super) fn stage(&mut self, job: Job) {
        let (store, model) = (Arc::clone(&self.deps.store), Arc::clone(&self.model));
        let cancelled = CancellationToken::new();
        let follow = FollowStaging {
            metrics: Arc::clone(&self.deps.metrics),
            slot: model.slot,
            inputs: self.inputs.clone(),
            cancelled: cancelled.clone(),
        };
        let background = self.deps.background.clone();
        let checker = self.deps.checker.clone();
        let metrics = Arc::clone(&self.deps.metrics);
        self.begin(async move {
            // If the step is aborted, this ends its thread as well.
            let _guard = cancelled.drop_guard();
            let layout = store.layout().clone();
            let requirements = checker.requirements();
            let request = Arc::new((job, follow));
            loop {
                let (from, of, request) =
                    (Arc::clone(&store), Arc::clone(&model), Arc::clone(&request));
                let resolve = move || resolve(&from, &of, &request.0, requirements, &request.1);
                let resolved = background.run(resolve).await;
                // It may have found damage.
                store.count_damaged(&model, &metrics);
                let Ok(ResolvedContent { candidate, .. }) = &resolved else {
                    return Input::Staged(resolved.map(Box::new));
                };
                let Content::Durable(generation, record) = &candidate.content else {
                    return Input::Staged(resolved.map(Box::new));
                };
                // The compiled form may be missing or stale after a restart.
                let (version, generation) = (record.version.clone(), *generation);
                let compiled = layout.compiled(&version);
                let Err(refusal) = checker.compile(&layout.version(&version), &compiled).await
                else {
                    return Input::Staged(resolved.map(Box::new));
                };
                drop(resolved);
                let reason = refusal.message;
                tracing::error!(generation, reason, "a kept version is damaged, not serving it");
                // Then an older generation is the last one, or the source is read again.
                let store = Arc::clone(&store);
                let discard = move || {
                    store
                        .discard(&version)
                        .map_err(|error| io_refusal(&store.layout().version(&version), &error))
                };
                if let Err(refusal) = background.run(discard).await {
                    return Input::Staged(Err(refusal));
                }
            }
        });
    }

    /// Waits until every admitted request is answered.
    pub(super) fn drain(&mut self) {
        // A commit in the same batch of actions may have opened the gate.
        self.model.gate.set(Presence::Unloading);
        let (gate, longest) = (Arc::clone(&self.model.gate), self.deps.request_timeout);
        self.begin(async move {
            // On timeout, the remaining requests have already been answered with a timeout error.
            let _ = time::timeout(longest, gate.drained()).await;
            Input::Event(Event::Drained)
        });
    }

    pub(super) fn commit(&mut self, generation: Generation, record: Arc<Record>, ahead: bool) {
        let version = record.version.as_str();
        tracing::info!(model = %self.model.name, generation, version, "committed");
        log_facts(&self.model.name, &record.facts);
        self.deps.registry.commit(self.model.slot, generation, record);
        if ahead {
            self.deps.workers.switch_idle_workers();
        }
    }

    pub(super) fn unload(&mut self) {
        tracing::info!(model = %self.model.name, "unloaded");
        self.deps.registry.unload(self.model.slot);
        let (workers, slot) = (Arc::clone(&self.deps.workers), self.model.slot);
        let inputs = self.inputs.clone();
        // Not aborted on stop: dropped versions cannot be restored.
        self.spawn(async move {
            if time::timeout(UNLOAD_TIMEOUT, workers.unload(slot)).await.is_err() {
                tracing::warn!(slot, "a worker has not dropped the unloaded model in time");
            }
            let _ = inputs.send(Input::Event(Event::Unloaded)).await;
        });
    }

    /// Removes versions that are no longer needed, and their indexes on request.
    pub(super) fn retire(&self, with_indexes: bool) {
        let (store, registry) = (Arc::clone(&self.deps.store), Arc::clone(&self.deps.registry));
        let background = self.deps.background.clone();
        let indexes = with_indexes.then(|| self.retire_indexes());
        self.spawn(async move {
            let retire = move || {
                store.retire(&registry.recently_served());
                Ok(())
            };
            // Errors are logged by `retire`.
            let _ = background.run(retire).await;
            if let Some(indexes) = indexes {
                indexes.await;
            }
        });
    }

    pub(super) fn quarantine(&self, version: String) {
        let (store, model) = (Arc::clone(&self.deps.store), self.model.name.clone());
        let background = self.deps.background.clone();
        self.spawn(async move {
            let written = background.run(move || store.quarantine(&model, &version)).await;
            if let Err(refusal) = written {
                tracing::error!(%refusal, "failed to quarantine a version that failed its probation");
            }
        });
    }

    /// Checks staged content, compares it with the serving version, and keeps it.
    pub(super) fn check(
        &mut self,
        job: &Job,
        staged: Staged,
    ) -> impl Future<Output = Result<Checked, Refusal>> + Send + 'static {
        let (checker, store) = (self.deps.checker.clone(), Arc::clone(&self.deps.store));
        // Also set after an unload: see `resolve`.
        let serving = self.model.last();
        let (allow_dimension_change, force) = (job.allow_dimension_change, job.force);
        let name = self.model.name.clone();
        let inputs = self.inputs.clone();
        let background = self.deps.background.clone();
        async move {
            let layout = store.layout();
            let kept = layout.version(&staged.version);
            let folder = staged.folder().unwrap_or(&kept);
            let compiled = layout.compiled(&staged.version);
            let serving_compiled =
                serving.as_ref().map(|(_, record)| layout.compiled(&record.version));
            let passed = |part| drop(inputs.try_send(Input::Passed(part)));
            let checked =
                checker.check(folder, &compiled, serving_compiled.as_deref(), passed).await?;
            let facts = &checked.facts;
            let serving = serving.map(|(_, record)| record);
            let drift_is_unknown = checker.has_min_cosine()
                && matches!(facts.output(), Output::Dense { .. })
                && serving.as_ref().is_some_and(|serving| serving.facts.output() == facts.output())
                && checked.drift.is_none();
            if let Some(serving) = &serving {
                require_compatible(facts, &serving.facts, allow_dimension_change)?;
            }
            // Without the serving version's embeddings, --min-cosine cannot be checked.
            if drift_is_unknown {
                let message = "cannot check --min-cosine: the probe embeddings of the serving version are missing; restart onnxd to recreate them";
                return Err(RefusalKind::Drift.because(message));
            }
            let drift = checked.drift.filter(|_| serving.is_some());
            let keep = move || {
                let files = store.files(&staged);
                let found = staged.folder().and_then(|folder| unfinished::find(folder, &files));
                unfinished::require_plausible(
                    name.as_str(),
                    found.as_ref(),
                    drift.as_ref(),
                    force,
                )?;
                store.keep(staged)
            };
            background.run(keep).await?;
            Ok(checked)
        }
    }

    pub(super) fn write_record(
        &self,
        generation: Generation,
        version: PinnedVersion,
        checked: CheckedFacts,
    ) {
        let CheckedFacts { facts, drift } = checked;
        let facts = *facts;
        let (store, model) = (Arc::clone(&self.deps.store), Arc::clone(&self.model));
        let metrics = Arc::clone(&self.deps.metrics);
        let inputs = self.inputs.clone();
        let background = self.deps.background.clone();
        // Not aborted on stop: the record may be durable already, so its result counts.
        self.spawn(async move {
            let version = version.as_ref().to_owned();
            let configured_source = model.source.clone();
            let record = Arc::new(Record { version, configured_source, facts, drift });
            let write = move || {
                store.record(&model.name, generation, &record)?;
                // The version may have taken the place of a damaged one.
                store.count_damaged(&model, &metrics);
                Ok(record)
            };
            let written = background.run(write).await;
            let _ = inputs.send(Input::Event(Event::Recorded(written))).await;
        });
    }
}

/// Reports the progress of staging to the metrics and to the caller.
struct FollowStaging {
    metrics: Arc<Metrics>,
    slot: Slot,
    inputs: mpsc::Sender<Input>,
    cancelled: CancellationToken,
}

impl Follow for FollowStaging {
    fn report(&self, Transfer { bytes, total, downloaded }: Transfer) {
        self.metrics.model(self.slot).source.downloaded(downloaded);
        // A caller that does not read in time misses some progress.
        let _ = self.inputs.try_send(Input::Staging { bytes, of: total });
    }

    fn step(&self, name: &'static str) {
        // Without it, the previous step's span includes this one.
        let _ = self.inputs.try_send(Input::StagingStep(name));
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }
}

/// Logs how a model is run, its guessed settings, and a reduced text length.
fn log_facts(model: &ModelName, facts: &Facts) {
    let (task, file, pipeline) = (facts.task.as_str(), &facts.file, facts.pipeline.join(", "));
    tracing::info!(%model, task, file, pipeline, "model configuration");
    for Guess { key, value, reason } in &facts.guesses {
        tracing::warn!(%model, key, value, reason, "guessed a setting that no file states; set it in onnxd.toml");
    }
    if let Some(Shortened { declared_tokens, reason }) = &facts.shortened {
        let max_tokens = facts.max_tokens;
        tracing::warn!(%model, max_tokens, declared_tokens, reason, "maximum text length reduced below the model's declared limit");
    }
}
