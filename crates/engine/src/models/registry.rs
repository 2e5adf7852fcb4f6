//! The served models and what each serves. The registry is the one writer of the control page:
//! whoever wants to serve another generation, or none, goes through [`Registry::commit`] and
//! [`Registry::unload`].

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use onnxd_proto::{
    control_page::{ControlPage, Slot},
    domain::{Record, SourceUri, model_name::ModelName},
    generation::Generation,
    wire::message::ModelSlot,
};

use crate::models::gate::{Gate, Presence};
use onnxd_telemetry::metrics::Metrics;

/// How long after it has been replaced a version may be in use: every worker has refreshed or
/// ended by then, since no request takes that long.
const IN_USE: Duration = Duration::from_secs(120);

/// How long a commit waits for responses that hold still.
const HOLD_STILL_MAX: Duration = Duration::from_secs(5);

/// Generations whose records stay at hand for answers that are still on their way.
const ISSUED_MAX: usize = 1024;

/// A model and where its versions come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSource {
    /// The served name.
    pub name: ModelName,
    /// Other names that requests may use.
    pub aliases: Vec<String>,
    /// It may be missing where a generation of an earlier start can serve.
    pub uri: SourceUri,
    /// Whether it is loaded at start, and not on first use.
    pub preload: bool,
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
    /// Its place in the control page.
    pub slot: Slot,
    /// The source it was configured with.
    pub source: SourceUri,
    /// Whether it is loaded at start, and not on first use.
    pub preload: bool,
    /// Who asks for it goes through here.
    pub gate: Arc<Gate>,
    issued: RwLock<VecDeque<Issued>>,
    /// Held for reading by responses that must not be overtaken by another commit.
    steady: Arc<tokio::sync::RwLock<()>>,
}

/// A response with many inputs, for which commits wait; see [`Model::hold_still`].
#[derive(Debug)]
pub struct HeldStill {
    _held: tokio::sync::OwnedRwLockReadGuard<()>,
}

/// A generation that has been committed since the start.
#[derive(Clone, Debug)]
struct Issued {
    generation: Generation,
    record: Arc<Record>,
    at: Instant,
    /// Whether it has not been unloaded.
    serves: bool,
}

impl Model {
    /// A model in its slot, of which nothing is served yet.
    pub fn new(slot: Slot, source: ModelSource) -> Self {
        let ModelSource { name, aliases, uri, preload } = source;
        let (gate, issued, steady) = (Arc::default(), RwLock::default(), Arc::default());
        Self { name, aliases, slot, source: uri, preload, gate, issued, steady }
    }

    /// What is served now: the generation and what it is. `None` before the first commit and when
    /// it has been unloaded.
    pub fn serving(&self) -> Option<(Generation, Arc<Record>)> {
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        let last = issued.back().filter(|last| last.serves);
        last.map(|last| (last.generation, Arc::clone(&last.record)))
    }

    /// What is served now, or was served last since the start.
    pub fn last(&self) -> Option<(Generation, Arc<Record>)> {
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        issued.back().map(|last| (last.generation, Arc::clone(&last.record)))
    }

    /// Has commits wait as long as the result lives, at most [`HOLD_STILL_MAX`]: for a response that
    /// was overtaken by commits again and again and is too large for one group.
    pub async fn hold_still(&self) -> HeldStill {
        HeldStill { _held: Arc::clone(&self.steady).read_owned().await }
    }

    /// Waits until a commit overtakes no response that holds still, or for as long as it may.
    pub async fn settle(&self) {
        if tokio::time::timeout(HOLD_STILL_MAX, self.steady.write()).await.is_err() {
            tracing::warn!(model = %self.name, "a commit overtakes responses that hold still");
        }
    }

    /// What a generation is that was committed since the start.
    pub fn record(&self, generation: Generation) -> Option<Arc<Record>> {
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        let found = issued.iter().rev().find(|issued| issued.generation == generation);
        found.map(|issued| Arc::clone(&issued.record))
    }
}

impl Registry {
    /// Gives every configured model a slot. Nothing is served yet.
    pub fn new(sources: &[ModelSource], page: ControlPage, metrics: Arc<Metrics>) -> Self {
        let models =
            (0..).zip(sources).map(|(slot, source)| Arc::new(Model::new(slot, source.clone())));
        Self { models: models.collect(), page, metrics }
    }

    /// All models; the first answers requests that name none.
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// The model of that name or alias, or the first.
    pub fn find(&self, name: Option<&str>) -> Option<&Arc<Model>> {
        match name {
            Some(name) => self.models.iter().find(|model| {
                model.name.as_str() == name || model.aliases.iter().any(|alias| alias == name)
            }),
            None => self.models.first(),
        }
    }

    /// The model in a slot.
    pub fn at(&self, slot: Slot) -> &Arc<Model> {
        &self.models[usize::from(slot)]
    }

    /// What workers are told about models.
    pub fn slots(&self) -> Vec<ModelSlot> {
        let slot = |model: &Arc<Model>| ModelSlot { name: model.name.clone(), slot: model.slot };
        self.models.iter().map(slot).collect()
    }

    /// Versions that a worker may still be loading or serving: those that were committed or
    /// followed by a commit within [`IN_USE`].
    pub fn recently_served(&self) -> HashSet<String> {
        let mut versions = HashSet::new();
        for model in &self.models {
            let issued = model.issued.read().unwrap_or_else(PoisonError::into_inner);
            // From the newest back; an old one was in use until the next was committed.
            let mut until = Instant::now();
            for issued in issued.iter().rev() {
                if until.elapsed() > IN_USE {
                    break;
                }
                versions.insert(issued.record.version.clone());
                until = issued.at;
            }
        }
        versions
    }

    /// The page that workers read.
    pub fn page(&self) -> &ControlPage {
        &self.page
    }

    /// From now on `generation` is served. Its record and version are durable; numbers rise.
    pub fn commit(&self, slot: Slot, generation: Generation, record: Arc<Record>) {
        let model = self.at(slot);
        let mut issued = model.issued.write().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(issued.back().is_none_or(|last| last.generation < generation));
        // First known, then committed: an answer may come the moment after the store.
        issued.push_back(Issued { generation, record, at: Instant::now(), serves: true });
        if issued.len() > ISSUED_MAX {
            issued.pop_front();
        }
        self.page.commit(slot, generation);
        model.gate.set(Presence::Loaded);
        self.metrics.commits_total.add();
    }

    /// From now on nothing is served of a model, whose gate is closed already. What it was is known
    /// still, for answers that are on their way.
    pub fn unload(&self, slot: Slot) {
        let mut issued = self.at(slot).issued.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = issued.back_mut() {
            last.serves = false;
        }
        self.page.unload(slot);
    }
}
