//! The served models and what each serves. The registry is the one writer of the control page:
//! whoever wants to serve another generation goes through [`Registry::commit`].

use std::{
    collections::{HashSet, VecDeque},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use onnxd_proto::{
    control_page::{ControlPage, Slot},
    generation::Generation,
    layout::Record,
    message::ModelSlot,
    model_name::ModelName,
};

use crate::{config::ModelSource, metrics::Metrics};

/// How long after it has been replaced a version may be in use: every worker has refreshed or
/// ended by then, since no request takes that long.
const IN_USE: Duration = Duration::from_secs(120);

/// Generations whose records stay at hand for answers that are still on their way.
const ISSUED_MAX: usize = 1024;

/// All served models.
#[derive(Debug)]
pub(crate) struct Registry {
    models: Vec<Arc<Model>>,
    page: ControlPage,
    metrics: Arc<Metrics>,
}

/// A served model.
#[derive(Debug)]
pub(crate) struct Model {
    /// The served name.
    pub name: ModelName,
    /// Its place in the control page.
    pub slot: Slot,
    /// The directory it was configured with.
    pub source: PathBuf,
    issued: RwLock<VecDeque<Issued>>,
}

/// A generation that has been committed since the start.
#[derive(Clone, Debug)]
struct Issued {
    generation: Generation,
    record: Arc<Record>,
    at: Instant,
}

impl Model {
    /// What is served now: the generation and what it is. `None` before the first commit.
    pub(crate) fn serving(&self) -> Option<(Generation, Arc<Record>)> {
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        issued.back().map(|last| (last.generation, Arc::clone(&last.record)))
    }

    /// What a generation is that was committed since the start.
    pub(crate) fn record(&self, generation: Generation) -> Option<Arc<Record>> {
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        let found = issued.iter().rev().find(|issued| issued.generation == generation);
        found.map(|issued| Arc::clone(&issued.record))
    }
}

impl Registry {
    /// Gives every configured model a slot. Nothing is served yet.
    pub(crate) fn new(sources: &[ModelSource], page: ControlPage, metrics: Arc<Metrics>) -> Self {
        let models = (0..).zip(sources).map(|(slot, source)| {
            Arc::new(Model {
                name: source.name.clone(),
                slot,
                source: source.directory.clone(),
                issued: RwLock::default(),
            })
        });
        Self { models: models.collect(), page, metrics }
    }

    /// All models; the first answers requests that name none.
    pub(crate) fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// The model of that name, or the first.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<&Arc<Model>> {
        match name {
            Some(name) => self.models.iter().find(|model| model.name.as_str() == name),
            None => self.models.first(),
        }
    }

    /// The model in a slot.
    pub(crate) fn at(&self, slot: Slot) -> &Arc<Model> {
        &self.models[usize::from(slot)]
    }

    /// What workers are told about models.
    pub(crate) fn slots(&self) -> Vec<ModelSlot> {
        let slot = |model: &Arc<Model>| ModelSlot { name: model.name.clone(), slot: model.slot };
        self.models.iter().map(slot).collect()
    }

    /// Versions that a worker may still be loading or serving: those that were committed or
    /// followed by a commit within [`IN_USE`].
    pub(crate) fn recently_served(&self) -> HashSet<String> {
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
    pub(crate) fn page(&self) -> &ControlPage {
        &self.page
    }

    /// From now on `generation` is served. Its record and version are durable; numbers rise.
    pub(crate) fn commit(&self, slot: Slot, generation: Generation, record: Arc<Record>) {
        let model = self.at(slot);
        let mut issued = model.issued.write().unwrap_or_else(PoisonError::into_inner);
        debug_assert!(issued.back().is_none_or(|last| last.generation < generation));
        // First known, then committed: an answer may come the moment after the store.
        issued.push_back(Issued { generation, record, at: Instant::now() });
        if issued.len() > ISSUED_MAX {
            issued.pop_front();
        }
        self.page.commit(slot, generation);
        self.metrics.commits_total.add();
    }
}
