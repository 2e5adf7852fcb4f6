//! The life of an update: stage, check, persist, commit. Updates of one model are serialized;
//! whatever fails before the commit leaves the serving generation alone. A rollback is an update
//! to a version that has been served before, and needs none of the first steps.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use clap::ValueEnum;
use onnxd_proto::{
    generation::Generation,
    layout::Record,
    message::{Facts, Refusal, RefusalKind},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, mpsc},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use super::{
    checker::Checker,
    registry::{Model, Registry},
    source::{Directory, io_refusal},
    store::{Staged, Store},
};
use crate::counters::Counters;

/// Updates of one model that may wait for their turn.
const WAITING_MAX: usize = 64;

/// When workers load a new version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Load {
    /// Each worker when it notices the commit, before its next inference
    #[default]
    Lazy,
}

/// What becomes of a model.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// The version in this directory, or in the model's own source.
    Source(Option<PathBuf>),
    /// The version of this generation, or of the newest one that had another version.
    Generation(Option<Generation>),
}

/// What an update did; the last line of its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The served name.
    pub model: String,
    /// What serves now.
    pub generation: Generation,
    /// The digest of its content.
    pub version: String,
    /// What served before; 0 is none.
    pub previous_generation: Generation,
    /// When workers load it.
    pub load: Load,
    /// From the call to the commit.
    pub seconds: f64,
}

/// A step that an update has taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(crate) enum Step {
    /// The source's files stand in the state directory.
    Staged {
        /// The digest of the content.
        version: String,
        /// All files.
        bytes: u64,
    },
    /// The candidate can serve.
    Checked {
        /// Components of one embedding.
        dimension: u32,
        /// How long the check took; 0 where this version was checked before.
        seconds: f64,
    },
}

/// Where the steps of an update are told; what nobody reads is dropped.
pub(crate) type Progress = mpsc::Sender<Step>;

/// Leads models through updates.
#[derive(Debug)]
pub(crate) struct Updater {
    store: Arc<Store>,
    registry: Arc<Registry>,
    checker: Checker,
    counters: Arc<Counters>,
    turns: Vec<Turn>,
    stopping: CancellationToken,
}

/// One model's line of updates.
#[derive(Debug)]
struct Turn {
    /// The last number that was ever recorded for the model.
    last: Mutex<Generation>,
    waiting: tokio::sync::Semaphore,
}

impl Updater {
    /// Continues the numbers that the store has recorded.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn new(
        store: Arc<Store>,
        registry: Arc<Registry>,
        checker: Checker,
        counters: Arc<Counters>,
    ) -> std::io::Result<Self> {
        let turn = |model: &Arc<Model>| {
            let last = store.generations(&model.name)?.last().copied().unwrap_or(0);
            let waiting = tokio::sync::Semaphore::new(WAITING_MAX);
            Ok(Turn { last: Mutex::new(last), waiting })
        };
        let turns = registry.models().iter().map(turn).collect::<std::io::Result<_>>()?;
        let stopping = CancellationToken::new();
        Ok(Self { store, registry, checker, counters, turns, stopping })
    }

    /// Gives up updates that are not decided yet; the serving generations stay.
    pub(crate) fn stop(&self) {
        self.stopping.cancel();
    }

    /// Brings a model to what it serves at start: its last durable generation, or its source
    /// where there is none or the configuration names another source than it did then.
    ///
    /// # Errors
    /// The store is damaged, or the source cannot serve.
    pub(crate) async fn restore(&self, model: &Model) -> Result<(), Refusal> {
        let newest = self
            .store
            .newest(&model.name)
            .map_err(|error| RefusalKind::Internal.because(error.to_string()))?;
        match newest {
            Some((generation, record)) if record.configured_source == model.source => {
                let version = record.version.as_str();
                tracing::info!(model = %model.name, generation, version, "serving the last durable generation");
                self.registry.commit(model.slot, generation, Arc::new(record));
                Ok(())
            }
            _ => {
                tracing::info!(model = %model.name, source = %model.source.display(), "staging");
                let (progress, _) = mpsc::channel(1);
                self.update(model, Target::Source(None), Load::Lazy, &progress).await.map(drop)
            }
        }
    }

    /// Updates a model and returns when every request that begins afterwards is answered by the
    /// new generation.
    ///
    /// # Errors
    /// Why the serving generation stays.
    pub(crate) async fn update(
        &self,
        model: &Model,
        target: Target,
        load: Load,
        progress: &Progress,
    ) -> Result<Outcome, Refusal> {
        let start = Instant::now();
        let result = self.take_turn(model, target, load, progress).await;
        match &result {
            Ok(outcome) => {
                let Outcome { generation, version, .. } = outcome;
                let seconds = start.elapsed().as_secs_f64();
                tracing::info!(model = %model.name, generation, version, seconds, "committed");
            }
            Err(refusal) => {
                self.counters.updates_refused_total.add();
                let kind = refusal.kind;
                tracing::warn!(model = %model.name, ?kind, reason = refusal.message, "update refused");
            }
        }
        result.map(|outcome| Outcome { seconds: start.elapsed().as_secs_f64(), ..outcome })
    }

    async fn take_turn(
        &self,
        model: &Model,
        target: Target,
        load: Load,
        progress: &Progress,
    ) -> Result<Outcome, Refusal> {
        let turn = &self.turns[usize::from(model.slot)];
        let _waiting = turn.waiting.try_acquire().map_err(|_| {
            RefusalKind::Busy
                .because(format!("{WAITING_MAX} updates of {} wait already", model.name))
        })?;
        let mut last = turn.last.lock().await;
        let previous_generation = model.serving().map_or(0, |(generation, _)| generation);
        let (version, facts) = match target {
            Target::Source(from) => {
                let source = from.unwrap_or_else(|| model.source.clone());
                tokio::select! {
                    result = self.stage_and_check(model, source, progress) => result?,
                    () = self.stopping.cancelled() => {
                        return Err(RefusalKind::Busy.because("onnxd is stopping"));
                    }
                }
            }
            Target::Generation(to) => self.earlier(model, to)?,
        };
        let record = Record { version, configured_source: model.source.clone(), facts };
        let generation = *last + 1;
        let record = self.persist(model, generation, record).await?;
        *last = generation;
        self.registry.commit(model.slot, generation, Arc::clone(&record));
        Ok(Outcome {
            model: model.name.to_string(),
            generation,
            version: record.version.clone(),
            previous_generation,
            load,
            seconds: 0.0,
        })
    }

    async fn stage_and_check(
        &self,
        model: &Model,
        source: PathBuf,
        progress: &Progress,
    ) -> Result<(String, Facts), Refusal> {
        let store = Arc::clone(&self.store);
        let staged = blocking(move || store.stage(&Directory::open(&source)?)).await?;
        let Staged { version, bytes, .. } = &staged;
        // Nobody may be listening.
        let _ = progress.try_send(Step::Staged { version: version.clone(), bytes: *bytes });
        let start = Instant::now();
        let facts = match (staged.folder(), self.known_facts(model, version)) {
            (None, Some(facts)) => facts,
            (folder, _) => {
                let kept = self.store.layout().version(version);
                self.checker.check(folder.unwrap_or(&kept)).await?
            }
        };
        if let Some((_, serving)) = model.serving() {
            let dimension = serving.facts.dimension;
            if dimension != facts.dimension {
                return Err(RefusalKind::Contract.because(format!(
                    "the candidate's embeddings have {} components, those of the serving generation {dimension}; vectors of both could not be compared",
                    facts.dimension
                )));
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let _ = progress.try_send(Step::Checked { dimension: facts.dimension, seconds });
        let version = version.clone();
        let store = Arc::clone(&self.store);
        blocking(move || store.keep(staged)).await?;
        Ok((version, facts))
    }

    /// What an earlier check of this version of the model found out.
    fn known_facts(&self, model: &Model, version: &str) -> Option<Facts> {
        let numbers = self.store.generations(&model.name).ok()?;
        let mut records = numbers
            .into_iter()
            .rev()
            .filter_map(|number| self.store.layout().read_record(&model.name, number).ok());
        records.find(|record| record.version == version).map(|record| record.facts)
    }

    /// The version that a rollback goes back to.
    fn earlier(&self, model: &Model, to: Option<Generation>) -> Result<(String, Facts), Refusal> {
        let layout = self.store.layout();
        let missing = |message: String| RefusalKind::NotFound.because(message);
        let serving = model.serving();
        let numbers = match to {
            Some(number) => vec![number],
            None => self
                .store
                .generations(&model.name)
                .map_err(|error| io_refusal(&layout.generations(&model.name), &error))?,
        };
        let mut records =
            numbers.into_iter().rev().filter_map(|n| layout.read_record(&model.name, n).ok());
        let wanted = |record: &Record| {
            let other = serving.as_ref().is_none_or(|(_, now)| now.version != record.version);
            (to.is_some() || other) && layout.version(&record.version).exists()
        };
        let found = records.find(wanted).map(|record| (record.version, record.facts));
        found.ok_or_else(|| {
            missing(match to {
                Some(number) => format!("generation {number} of {} is not kept", model.name),
                None => format!("no earlier version of {} is kept", model.name),
            })
        })
    }

    async fn persist(
        &self,
        model: &Model,
        generation: Generation,
        record: Record,
    ) -> Result<Arc<Record>, Refusal> {
        let store = Arc::clone(&self.store);
        let name = model.name.clone();
        let record = Arc::new(record);
        let written = Arc::clone(&record);
        blocking(move || store.record(&name, generation, &written)).await?;
        Ok(record)
    }

    /// Updates every model from its own source, one after the other: what SIGHUP asks for.
    pub(crate) async fn update_all(&self) -> HashMap<String, Result<Outcome, Refusal>> {
        let (progress, _) = mpsc::channel(1);
        let mut results = HashMap::new();
        for model in self.registry.models() {
            let result = self.update(model, Target::Source(None), Load::default(), &progress).await;
            results.insert(model.name.to_string(), result);
        }
        results
    }
}

/// Runs work that waits for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(RefusalKind::Internal.because(format!("a task of the update ended: {error}")))
    })
}

/// A path in a request, which must be absolute since the two processes may stand in different
/// directories.
///
/// # Errors
/// The path is relative.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Refusal> {
    if path.is_absolute() {
        Ok(path.to_owned())
    } else {
        let message = format!("{}: the path of a source must be absolute", path.display());
        Err(RefusalKind::NotFound.because(message))
    }
}
