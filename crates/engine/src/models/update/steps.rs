//! The steps of an update and of an unload, as a [`Driver`] takes them. Each tells the machine its
//! outcome.

use std::{future::Future, sync::Arc, time::Duration};

use onnxd_proto::{
    domain::{
        Checked, Facts, Guess, Output, Record, Refusal, RefusalKind, Shortened,
        model_name::ModelName,
    },
    generation::Generation,
};
use tokio::time;

use crate::models::{
    gate::Presence,
    machine::events::{Content, Event, Job},
    store::{Staged, pins::PinnedVersion},
    update::{
        driver::{Driver, Input},
        find::{find, require_alike},
        payload::Known,
    },
};

/// How long workers may take to drop what is unloaded; who is slower does it when it can.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(60);

impl Driver {
    /// Fetches the source, or finds the version.
    pub(super) fn stage(&mut self, job: Job) {
        let (store, model) = (Arc::clone(&self.means.store), Arc::clone(&self.model));
        let inputs = self.inputs.clone();
        let progress = move |bytes, of| drop(inputs.try_send(Input::Staging { bytes, of }));
        let background = self.means.background.clone();
        let checker = self.means.checker.clone();
        self.begin(async move {
            let layout = store.layout().clone();
            let demands = checker.demands();
            let find = move || find(&store, &model, &job, demands, &progress);
            let found = background.run(find).await;
            if let Ok(found) = &found
                && let Content::Durable(_, record) = &found.candidate.content
            {
                // What was compiled before the start may be missing or stale.
                let version = layout.version(&record.version);
                checker.compile(&version, &layout.compiled(&record.version)).await;
            }
            Input::Staged(found.map(Box::new))
        });
    }

    /// Waits until what was admitted is answered.
    pub(super) fn drain(&mut self) {
        // A commit that came with this has opened it.
        self.model.gate.set(Presence::Unloading);
        let (gate, longest) = (Arc::clone(&self.model.gate), self.means.request_timeout);
        self.begin(async move {
            // Who is inside longer than a request may take has been answered.
            let _ = time::timeout(longest, gate.emptied()).await;
            Input::Happened(Event::Drained)
        });
    }

    pub(super) fn commit(&mut self, generation: Generation, record: Arc<Record>, ahead: bool) {
        let version = record.version.as_str();
        tracing::info!(model = %self.model.name, generation, version, "committed");
        tell_how_it_runs(&self.model.name, &record.facts);
        self.means.registry.commit(self.model.slot, generation, record);
        if ahead {
            self.means.workers.follow_commit();
        }
    }

    pub(super) fn unload(&mut self) {
        tracing::info!(model = %self.model.name, "unloaded");
        self.means.registry.unload(self.model.slot);
        let (workers, slot) = (Arc::clone(&self.means.workers), self.model.slot);
        let inputs = self.inputs.clone();
        // Not a step that is given up: what is dropped is dropped.
        self.spawn(async move {
            if time::timeout(UNLOAD_TIMEOUT, workers.unload(slot)).await.is_err() {
                tracing::warn!(slot, "a worker is slow to drop what is unloaded");
            }
            let _ = inputs.send(Input::Happened(Event::Unloaded)).await;
        });
    }

    /// Removes versions that nothing needs any more.
    pub(super) fn retire(&self) {
        let (store, registry) = (Arc::clone(&self.means.store), Arc::clone(&self.means.registry));
        let background = self.means.background.clone();
        self.spawn(async move {
            let retire = move || {
                store.retire(&registry.recently_served());
                Ok(())
            };
            // It logs its faults.
            let _ = background.run(retire).await;
        });
    }

    pub(super) fn quarantine(&self, version: String) {
        let (store, model) = (Arc::clone(&self.means.store), self.model.name.clone());
        let background = self.means.background.clone();
        self.spawn(async move {
            let written = background.run(move || store.quarantine(&model, &version)).await;
            if let Err(refusal) = written {
                tracing::error!(%refusal, "a version that failed its probation is not quarantined");
            }
        });
    }

    /// Tries what is staged, compares it with what serves, and keeps it.
    pub(super) fn check(
        &mut self,
        job: &Job,
        staged: Staged,
    ) -> impl Future<Output = Result<Checked, Refusal>> + Send + 'static {
        let (checker, store) = (self.means.checker.clone(), Arc::clone(&self.means.store));
        // Also after an unload: see `find`.
        let serving = self.model.last();
        let allow_dimension_change = job.allow_dimension_change;
        let inputs = self.inputs.clone();
        let background = self.means.background.clone();
        async move {
            let layout = store.layout();
            let kept = layout.version(&staged.version);
            let folder = staged.folder().unwrap_or(&kept);
            let compiled = layout.compiled(&staged.version);
            let beside = serving.as_ref().map(|(_, record)| layout.compiled(&record.version));
            let passed = |part| drop(inputs.try_send(Input::Passed(part)));
            let checked = checker.check(folder, &compiled, beside.as_deref(), passed).await?;
            let facts = &checked.facts;
            let serving = serving.map(|(_, record)| record);
            let is_far = checker.demands_nearness()
                && matches!(facts.output(), Output::Dense { .. })
                && serving.as_ref().is_some_and(|serving| serving.facts.output() == facts.output())
                && checked.drift.is_none();
            if let Some(serving) = &serving {
                require_alike(facts, &serving.facts, allow_dimension_change)?;
            }
            // Without what it is compared with, nobody can say that it is near.
            if is_far {
                let message = "--min-cosine is set, and the embeddings of the serving version that it is about are gone; the next start makes them again";
                return Err(RefusalKind::Drift.because(message));
            }
            background.run(move || store.keep(staged)).await?;
            Ok(checked)
        }
    }

    pub(super) fn write_record(
        &self,
        generation: Generation,
        version: PinnedVersion,
        known: Known,
    ) {
        let Known { facts, drift } = known;
        let facts = *facts;
        let (store, model) = (Arc::clone(&self.means.store), self.model.name.clone());
        let configured_source = self.model.source.clone();
        let inputs = self.inputs.clone();
        let background = self.means.background.clone();
        // Not a step that is given up: once it has begun its outcome is awaited.
        self.spawn(async move {
            let version = version.as_ref().to_owned();
            let record = Arc::new(Record { version, configured_source, facts, drift });
            let write = move || store.record(&model, generation, &record).map(|()| record);
            let written = background.run(write).await;
            let _ = inputs.send(Input::Happened(Event::Recorded(written))).await;
        });
    }
}

/// Logs how a model is run, what was assumed of it, and what it cannot do that its files say.
fn tell_how_it_runs(model: &ModelName, facts: &Facts) {
    let (task, file, pipeline) = (facts.task.as_str(), &facts.file, facts.pipeline.join(", "));
    tracing::info!(%model, task, file, pipeline, "how the model is run");
    for Guess { key, value, reason } in &facts.guesses {
        tracing::warn!(%model, key, value, reason, "no file states this setting: guessed it; set the key in onnxd.toml");
    }
    if let Some(Shortened { declared_tokens, reason }) = &facts.shortened {
        let max_tokens = facts.max_tokens;
        tracing::warn!(%model, max_tokens, declared_tokens, reason, "serving shorter texts than the model's files allow");
    }
}
