//! Owns the served models and the generation that each serves. The registry is the only writer of the
//! control page: every change goes through [`Registry::commit`] or [`Registry::unload`].

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use onnxd_proto::{
    control_page::{ControlPage, Slot},
    domain::{IndexStatus, Record, Refusal, SourceUri, model_name::ModelName},
    generation::Generation,
    wire::message::ModelSlot,
};

use crate::models::{
    gate::{Gate, Presence},
    sources::SourceRules,
};
use onnxd_telemetry::{log_limit::LogLimit, metrics::Metrics};

/// How long a replaced version may stay in use. No request takes this long, so every worker has
/// refreshed or exited by then.
const IN_USE_MAX: Duration = Duration::from_secs(120);

/// How long a commit waits for responses that block commits.
const COMMIT_BLOCK_MAX: Duration = Duration::from_secs(5);

/// Generations whose records stay in memory for responses still in flight.
const ISSUED_MAX: usize = 1024;

/// A model and where its versions come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSource {
    /// The served name.
    pub name: ModelName,
    /// Other names that requests may use.
    pub aliases: Vec<String>,
    /// The source. It may be missing if an earlier start committed a generation that can serve.
    pub uri: SourceUri,
    /// Whether the model is loaded at start rather than on first use.
    pub preload: bool,
    /// Whether the server starts only with this model.
    pub required: bool,
    /// What its sources must satisfy.
    pub rules: SourceRules,
}

impl ModelSource {
    /// Returns whether this is the model's name or an alias.
    pub fn is_named(&self, name: &str) -> bool {
        self.name.as_str() == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// All served models.
#[derive(Debug)]
pub struct Registry {
    models: Vec<Arc<Model>>,
    page: ControlPage,
    metrics: Arc<Metrics>,
}

/// A served model.
#[derive(Debug)]
pub struct Model {
    /// The served name.
    pub name: ModelName,
    /// Other names that requests may use.
    pub aliases: Vec<String>,
    /// Its slot in the control page.
    pub slot: Slot,
    /// The source it was configured with.
    pub source: SourceUri,
    /// Whether the model is loaded at start rather than on first use.
    pub preload: bool,
    /// Whether the server starts only with this model.
    pub required: bool,
    /// What its sources must satisfy.
    pub rules: SourceRules,
    /// Admits the requests for this model.
    pub gate: Arc<Gate>,
    /// Why it does not serve, if it could not be loaded.
    failure: RwLock<Option<Refusal>>,
    /// How far an update has completed its indexes, while it does.
    indexing: RwLock<Option<IndexStatus>>,
    /// Limits the lines about loads on first use that fail, which each request repeats.
    pub(super) first_use_failed: LogLimit,
    issued: RwLock<VecDeque<CommittedGeneration>>,
    /// Read-locked by responses that block commits.
    commit_blocks: Arc<tokio::sync::RwLock<()>>,
}

/// Blocks commits until dropped; see [`Model::block_commits`].
#[derive(Debug)]
pub struct CommitBlock {
    _held: tokio::sync::OwnedRwLockReadGuard<()>,
}

/// A generation committed since the start.
#[derive(Clone, Debug)]
struct CommittedGeneration {
    generation: Generation,
    record: Arc<Record>,
    at: Instant,
    /// False once it has been unloaded.
    serves: bool,
}

impl Model {
    /// Returns a model that serves nothing yet.
    pub fn new(slot: Slot, source: ModelSource) -> Self {
        let ModelSource { name, aliases, uri, preload, required, rules } = source;
        Self {
            name,
            aliases,
            slot,
            source: uri,
            preload,
            required,
            rules,
            gate: Arc::default(),
            failure: RwLock::default(),
            indexing: RwLock::default(),
            first_use_failed: LogLimit::new(),
            issued: RwLock::default(),
            commit_blocks: Arc::default(),
        }
    }

    /// Returns why the model does not serve, if it could not be loaded.
    pub fn failure(&self) -> Option<Refusal> {
        self.failure.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets why the model does not serve. The next commit clears it.
    pub(super) fn set_failure(&self, refusal: Refusal) {
        *self.failure.write().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }

    /// Returns how far an update has completed the model's indexes, while it does.
    pub fn indexing(&self) -> Option<IndexStatus> {
        *self.indexing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how far an update has completed the model's indexes.
    pub(super) fn set_indexing(&self, status: Option<IndexStatus>) {
        *self.indexing.write().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Returns the serving generation and its record, or `None` before the first commit and after
    /// an unload.
    pub fn serving(&self) -> Option<(Generation, Arc<Record>)> {
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        let last = issued.back().filter(|last| last.serves);
        last.map(|last| (last.generation, Arc::clone(&last.record)))
    }

    /// Returns the generation that serves or, after an unload, served last since the start.
    pub fn last(&self) -> Option<(Generation, Arc<Record>)> {
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        issued.back().map(|last| (last.generation, Arc::clone(&last.record)))
    }

    /// Makes commits wait until the result is dropped, for at most [`COMMIT_BLOCK_MAX`]. For
    /// responses that are too large for one group and that commits keep overtaking.
    pub async fn block_commits(&self) -> CommitBlock {
        CommitBlock { _held: Arc::clone(&self.commit_blocks).read_owned().await }
    }

    /// Waits until no response blocks commits, for at most [`COMMIT_BLOCK_MAX`].
    pub async fn wait_for_commit_blocks(&self) {
        if tokio::time::timeout(COMMIT_BLOCK_MAX, self.commit_blocks.write()).await.is_err() {
            tracing::warn!(model = %self.name, "committing without waiting longer for multi-group responses");
        }
    }

    /// Returns the record of a generation committed since the start.
    pub fn record(&self, generation: Generation) -> Option<Arc<Record>> {
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        let found = issued.iter().rev().find(|issued| issued.generation == generation);
        found.map(|issued| Arc::clone(&issued.record))
    }
}

impl Registry {
    /// Assigns every configured model a slot. Nothing is served yet.
    pub fn new(sources: &[ModelSource], page: ControlPage, metrics: Arc<Metrics>) -> Self {
        let models =
            (0..).zip(sources).map(|(slot, source)| Arc::new(Model::new(slot, source.clone())));
        Self { models: models.collect(), page, metrics }
    }

    /// Returns all models. The first answers requests that name no model.
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// Returns the model with this name or alias, or the first model for `None`.
    pub fn find(&self, name: Option<&str>) -> Option<&Arc<Model>> {
        match name {
            Some(name) => self.models.iter().find(|model| {
                model.name.as_str() == name || model.aliases.iter().any(|alias| alias == name)
            }),
            None => self.models.first(),
        }
    }

    /// Returns the model in a slot.
    pub fn at(&self, slot: Slot) -> &Arc<Model> {
        &self.models[usize::from(slot)]
    }

    /// Returns the name and slot of each model, as sent to workers.
    pub fn slots(&self) -> Vec<ModelSlot> {
        let slot = |model: &Arc<Model>| ModelSlot { name: model.name.clone(), slot: model.slot };
        self.models.iter().map(slot).collect()
    }

    /// Returns the versions that a worker may still be loading or serving: those committed or
    /// replaced within [`IN_USE_MAX`].
    pub fn recently_served(&self) -> HashSet<String> {
        let mut versions = HashSet::new();
        for model in &self.models {
            let issued = model.issued.read().unwrap_or_else(PoisonError::into_inner);
            // Newest first: each generation was in use until the next commit.
            let mut until = Instant::now();
            for issued in issued.iter().rev() {
                if until.elapsed() > IN_USE_MAX {
                    break;
                }
                versions.insert(issued.record.version.clone());
                until = issued.at;
            }
        }
        versions
    }

    /// Returns the control page that workers read.
    pub fn page(&self) -> &ControlPage {
        &self.page
    }

    /// Makes `generation` the serving one. Its record and version must be durable and its number the highest.
    pub fn commit(&self, slot: Slot, generation: Generation, record: Arc<Record>) {
        let model = self.at(slot);
        let mut issued = model.issued.write().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(issued.back().is_none_or(|last| last.generation < generation));
        // Publish the record first: an answer may arrive right after the store.
        issued.push_back(CommittedGeneration {
            generation,
            record,
            at: Instant::now(),
            serves: true,
        });
        if issued.len() > ISSUED_MAX {
            issued.pop_front();
        }
        *model.failure.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.page.commit(slot, generation);
        model.gate.set(Presence::Loaded);
        self.metrics.commits_total.increment();
    }

    /// Stops serving a model whose gate is already closed. Its record stays available for answers
    /// still in flight.
    pub fn unload(&self, slot: Slot) {
        let mut issued = self.at(slot).issued.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = issued.back_mut() {
            last.serves = false;
        }
        self.page.unload(slot);
    }
}
