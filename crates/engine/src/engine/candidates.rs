//! Embeds documents by a version that need not serve, for the step of updates that completes the indexes.
//! The version runs on separate worker processes, with their own control page and queue. Failures there
//! do not affect requests, and requests do not wait for documents. The processes run
//! at a lower priority than serving, and end with the step.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use onnxd_proto::{
    control_page::ControlPage,
    domain::{Refusal, RefusalKind, Task},
    wire::{
        message::{NamedSocket, Welcome},
        operation::Rejection,
    },
};
use onnxd_telemetry::metrics::Metrics;
use tokio::{
    sync::{OnceCell, mpsc, watch},
    task::{self, JoinHandle},
};
use tracing::Instrument;

use super::{
    Answer, Engine, EngineError, ErrorKind, MemoryBudget, Parts, RequestContext,
    texts::{Embed, Purpose, Text, TextOptions},
};
use crate::{
    dispatch::{
        Backlog, Event,
        actor::{
            state::{Deps, Dispatcher, EVENTS_MAX},
            worker::Worker,
        },
        gather::{Dispatch, GatherError, Limits},
        health::Health,
        policy::session::Session,
    },
    models::{
        indexes::{Candidates, DocumentOptions, Embedder, IndexedVersion},
        registry::{Model, ModelSource, Registry},
        store::{Store, VIEW_GENERATION, View},
        update::Updater,
        workers::Boxed,
    },
    pool::{
        Supervision, executable::WorkerExecutable, oom::OomKills, process_monitor::ProcessMonitor,
    },
};

/// Maximum worker processes of one version.
const WORKERS_MAX: usize = 4;
/// Calls for each worker that keep it busy while another batch is on its way.
const CALLS_PER_WORKER: usize = 2;
/// Items that may be queued. Callers send less.
const ITEMS_MAX: usize = 1 << 20;
/// Time limit of one call, and for a worker to become ready or to answer a ping. Serving may leave little
/// CPU time.
const TIMEOUT: Duration = Duration::from_secs(600);
/// The caller's name for the texts, for errors.
const FIELD: &str = "text";

/// Starts the workers of versions that embed documents.
#[derive(Clone, Debug)]
pub struct CandidateWorkers(Arc<CandidateParts>);

/// What [`CandidateWorkers`] need.
#[derive(Debug)]
pub struct CandidateParts {
    pub store: Arc<Store>,
    pub executable: WorkerExecutable,
    pub oom_kills: OomKills,
    /// The CPUs of the serving workers, one each.
    pub cpus: Vec<u16>,
    /// How many times one worker may be restarted within a minute.
    pub restarts_max: u32,
    /// Workers that use more than this are recycled.
    pub worker_memory_bytes: Option<u64>,
}

impl CandidateWorkers {
    /// Starts no process yet.
    pub fn new(parts: CandidateParts) -> Self {
        let executable = parts.executable.in_background();
        let cpus = parts.cpus.into_iter().take(WORKERS_MAX).collect();
        Self(Arc::new(CandidateParts { executable, cpus, ..parts }))
    }
}

impl Candidates for CandidateWorkers {
    fn embedder(&self, version: IndexedVersion) -> Arc<dyn Embedder> {
        let parts = Arc::clone(&self.0);
        Arc::new(VersionEmbedder { parts, version, pool: OnceCell::new() })
    }
}

/// Embeds by one version. Its workers start with the first call.
#[derive(Debug)]
struct VersionEmbedder {
    parts: Arc<CandidateParts>,
    version: IndexedVersion,
    pool: OnceCell<Pool>,
}

impl Embedder for VersionEmbedder {
    fn version(&self) -> &str {
        &self.version.record.version
    }

    fn embed(
        &self,
        texts: Vec<String>,
        options: DocumentOptions,
    ) -> Boxed<'_, Result<Vec<Bytes>, Refusal>> {
        Box::pin(async move {
            let start = || Pool::start(&self.parts, &self.version);
            self.pool.get_or_try_init(start).await?.embed(request(texts, options)).await
        })
    }

    fn task(&self) -> Task {
        self.version.record.facts.task
    }

    fn concurrency(&self) -> usize {
        CALLS_PER_WORKER * self.parts.cpus.len()
    }
}

/// Returns the request that embeds documents, as if a client had sent it. Embed documents by it while the
/// version serves as well, so that the vectors are the same.
pub fn request(texts: Vec<String>, options: DocumentOptions) -> Embed {
    let DocumentOptions { truncate, prompt, dimensions, normalize } = options;
    let purpose = Some(Purpose::new("document", FIELD));
    Embed {
        texts: texts.into_iter().map(Text::Text).collect(),
        field: FIELD,
        options: TextOptions { truncate, prompt, purpose, switches: Vec::new() },
        normalize,
        dimensions,
    }
}

/// The running workers of a version and their dispatcher.
#[derive(Debug)]
struct Pool {
    engine: Engine,
    model: Arc<Model>,
    task: Task,
    health: watch::Receiver<Health>,
    dispatcher: JoinHandle<()>,
    /// What the workers read.
    _view: View,
}

/// Workers exit as soon as the dispatcher drops their sockets.
impl Drop for Pool {
    fn drop(&mut self) {
        self.dispatcher.abort();
    }
}

impl Pool {
    async fn start(parts: &CandidateParts, version: &IndexedVersion) -> Result<Self, Refusal> {
        let IndexedVersion { model: name, record, .. } = version;
        let (store, named, shown) = (Arc::clone(&parts.store), name.clone(), Arc::clone(record));
        let view = task::spawn_blocking(move || store.view(&named, &shown)).await;
        let view = view.map_err(|error| failed(&error))??;
        let metrics = Arc::new(Metrics::default());
        let source = ModelSource {
            name: name.clone(),
            aliases: Vec::new(),
            uri: record.configured_source.clone(),
            preload: true,
            required: false,
            rules: Default::default(),
        };
        let page = ControlPage::create().map_err(|error| failed(&error))?;
        let registry = Arc::new(Registry::new(&[source], page, Arc::clone(&metrics)));
        let model = Arc::clone(registry.at(0));
        registry.commit(model.slot, VIEW_GENERATION, Arc::clone(record));

        let (events, incoming) = mpsc::channel(EVENTS_MAX);
        let workers = workers(parts, &events)?;
        let count = workers.len();
        let layout = view.layout();
        let backlog = Arc::new(Backlog::default());
        let restarts_max = parts.restarts_max;
        let deps = Deps {
            registry: Arc::clone(&registry),
            metrics: Arc::clone(&metrics),
            supervision: Supervision {
                stopped_grace: TIMEOUT,
                start_timeout: TIMEOUT,
                restarts_max,
            },
            welcome: Welcome {
                onnxruntime: parts.executable.onnxruntime().to_owned(),
                state_dir: layout.root().to_owned(),
                models: registry.slots(),
                // No such socket exists, so the workers have nothing to remove.
                admin_socket: NamedSocket { path: layout.root().join("none"), device: 0, inode: 0 },
                helper_cpus: Vec::new(),
            },
            updates: Vec::new(),
            events: events.clone(),
            backlog: Arc::clone(&backlog),
            worker_memory_bytes: parts.worker_memory_bytes,
        };
        let (dispatcher, health) = Dispatcher::new(deps, workers);
        let span = tracing::info_span!("embedding", model = %name);
        let dispatcher = tokio::spawn(dispatcher.run(incoming).instrument(span));
        // Cannot fail: the dispatcher has just begun to read.
        let _ = events.send(Event::StartWorkers).await;
        let limits = Limits { items: ITEMS_MAX, timeout: TIMEOUT };
        let parts = Parts {
            dispatch: Dispatch::new(events.clone(), Arc::clone(&metrics), limits, backlog, 1),
            updater: Arc::new(Updater::without_models(&registry, &metrics)),
            registry,
            health: health.clone(),
            metrics,
            events,
            workers: count,
        };
        let engine = Engine::new(parts, MemoryBudget::default());
        let task = record.facts.task;
        Ok(Self { engine, model, task, health, dispatcher, _view: view })
    }

    async fn answer(
        &self,
        context: &RequestContext,
        request: Embed,
    ) -> Result<Answer<Vec<Bytes>>, EngineError> {
        match self.task {
            Task::Sparse => self.engine.embed_sparse(context, &self.model, request).await,
            _ => self.engine.embed(context, &self.model, request).await,
        }
    }

    async fn embed(&self, request: Embed) -> Result<Vec<Bytes>, Refusal> {
        let context = RequestContext::new();
        let answer = tokio::select! {
            answer = self.answer(&context, request) => answer,
            refusal = self.failed() => return Err(refusal),
        };
        match answer {
            Ok(answer) => Ok(answer.output),
            Err(EngineError::Gather(GatherError::Stopped)) => Err(self.failed().await),
            Err(error) => Err(refusal(&error)),
        }
    }

    /// Returns why no worker is left, once that is so.
    async fn failed(&self) -> Refusal {
        let mut health = self.health.clone();
        let fatal = health.wait_for(|health| health.fatal.is_some()).await;
        let reason = fatal.ok().and_then(|health| health.fatal.clone());
        let reason =
            reason.map_or_else(|| "their dispatcher ended".to_owned(), |(_, reason)| reason);
        RefusalKind::Crash.because(format!("the workers that embed documents ended: {reason}"))
    }
}

fn workers(parts: &CandidateParts, events: &mpsc::Sender<Event>) -> Result<Vec<Worker>, Refusal> {
    let worker = |(id, cpu): (usize, &u16)| {
        let monitor = ProcessMonitor::spawn(
            id,
            *cpu,
            (parts.executable.clone(), parts.oom_kills.clone()),
            events.clone(),
            Event::ProcessReported,
        );
        let session = Session::new(Instant::now(), 1, parts.restarts_max);
        Ok(Worker::new(monitor.map_err(|error| failed(&error))?, *cpu, session))
    };
    parts.cpus.iter().enumerate().map(worker).collect()
}

fn failed(error: &dyn std::fmt::Display) -> Refusal {
    RefusalKind::Internal
        .because(format!("workers that embed documents cannot be started: {error}"))
}

fn refusal(error: &EngineError) -> Refusal {
    let kind = match (error, error.kind()) {
        (EngineError::Gather(GatherError::Poisonous), _) => RefusalKind::Crash,
        (EngineError::Gather(GatherError::Rejected(Rejection::NotLoaded(_))), _) => {
            RefusalKind::Load
        }
        (_, ErrorKind::Timeout) => RefusalKind::Timeout,
        (_, ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::Internal) => {
            RefusalKind::Internal
        }
        // The version does not take a text or an option that the serving one takes.
        _ => RefusalKind::Contract,
    };
    kind.because(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_embedded_like_a_request_with_that_purpose() {
        let options = DocumentOptions {
            prompt: Some("passage".into()),
            dimensions: Some(64),
            normalize: Some(false),
            truncate: None,
        };
        let embed = request(vec!["a".into()], options);
        assert_eq!(embed.texts, [Text::Text("a".into())]);
        assert_eq!((embed.dimensions, embed.normalize), (Some(64), Some(false)));
        assert_eq!(embed.options.prompt.as_deref(), Some("passage"));
        assert_eq!(embed.options.purpose, Some(Purpose::new("document", FIELD)));
    }

    #[test]
    fn refusals_tell_a_version_that_crashes_from_one_that_takes_no_such_text() {
        let kind = |error: GatherError| refusal(&error.into()).kind;
        let rejected = |rejection| kind(GatherError::Rejected(rejection));
        assert_eq!(kind(GatherError::Poisonous), RefusalKind::Crash);
        assert_eq!(kind(GatherError::Timeout(TIMEOUT)), RefusalKind::Timeout);
        assert_eq!(kind(GatherError::Stopped), RefusalKind::Internal);
        assert_eq!(rejected(Rejection::NotLoaded("damaged".into())), RefusalKind::Load);
        assert_eq!(rejected(Rejection::TooLong { tokens: 9, max: 8 }), RefusalKind::Contract);
    }
}
