//! Runs updates of a model with documents. A [`Script`] stands in for the search crate.

use std::{fs, sync::Weak};

use bytes::Bytes;
use onnxd_proto::{
    control_page::{ControlPage, Slot},
    domain::{SwitchFacts, Task},
    generation::Generation,
    layout::MANIFEST,
};
use onnxd_telemetry::{metrics::Metrics, tracer::Tracer};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::{
    models::{
        disk::hex,
        indexes::{Candidates, DocumentOptions, Embedder},
        machine::Times,
        registry::{ModelSource, Registry},
        sources::{SourceRules, fake::ByName},
        update::{
            Deps, Updater,
            background::Background,
            checker::{CheckLimits, Checker},
            coordinator::LocalCoordinator,
        },
        workers::{Boxed, Workers},
    },
    pool::{WorkerId, executable::WorkerExecutable},
    tasks::EssentialTasks,
};

/// What [`Script::complete`] does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Outcome {
    #[default]
    Complete,
    Fail,
    /// Embeds without end.
    Never,
}

/// Indexes that do as told.
#[derive(Debug, Default)]
struct Script {
    registry: Mutex<Weak<Registry>>,
    outcome: Mutex<Outcome>,
    /// What happened, in order.
    events: Arc<Mutex<Vec<String>>>,
    running: Notify,
}

impl Script {
    fn note(&self, event: String) {
        self.events.lock().unwrap().push(event);
    }

    fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}

/// Notes which generation serves when it is dropped.
#[derive(Debug)]
struct NotedFence(Arc<Mutex<Vec<String>>>, Weak<Registry>);

impl Drop for NotedFence {
    fn drop(&mut self) {
        let registry = self.1.upgrade();
        let serving = registry.and_then(|registry| registry.at(0).serving());
        let generation = serving.map_or(0, |(generation, _)| generation);
        self.0.lock().unwrap().push(format!("released with generation {generation}"));
    }
}

impl Indexes for Script {
    fn has_documents(&self, model: &str) -> bool {
        model == "m"
    }

    fn complete<'a>(
        &'a self,
        model: &'a str,
        candidate: &'a dyn Embedder,
        copies: Copies<'a>,
        progress: &'a (dyn Fn(IndexProgress) + Sync),
    ) -> Boxed<'a, Result<Fence, Refusal>> {
        Box::pin(async move {
            self.note(format!("complete {model} for {}, {copies:?}", candidate.version()));
            progress(IndexProgress { done: 5, total: 20 });
            self.running.notify_one();
            let outcome = *self.outcome.lock().unwrap();
            match outcome {
                Outcome::Complete => {
                    progress(IndexProgress { done: 20, total: 20 });
                    let registry = self.registry.lock().unwrap().clone();
                    Ok(Box::new(NotedFence(Arc::clone(&self.events), registry)) as Fence)
                }
                Outcome::Fail => Err(RefusalKind::Space.because("the disk is full")),
                Outcome::Never => std::future::pending().await,
            }
        })
    }

    fn keep<'a>(&'a self, model: &'a str, versions: Vec<String>) -> Boxed<'a, ()> {
        self.note(format!("keep {} versions of {model}", versions.len()));
        self.running.notify_one();
        Box::pin(std::future::ready(()))
    }
}

/// Embedders that are never called.
#[derive(Debug)]
struct Silent;

impl Candidates for Silent {
    fn embedder(&self, version: IndexedVersion) -> Arc<dyn Embedder> {
        assert_eq!(version.pin.as_ref(), version.record.version);
        Arc::new(Named(version.record.version.clone()))
    }
}

#[derive(Debug)]
struct Named(String);

impl Embedder for Named {
    fn version(&self) -> &str {
        &self.0
    }

    fn embed(&self, _: Vec<String>, _: DocumentOptions) -> Boxed<'_, Result<Vec<Bytes>, Refusal>> {
        panic!("nothing is embedded");
    }

    fn task(&self) -> Task {
        Task::Embed
    }

    fn concurrency(&self) -> usize {
        1
    }
}

/// No workers run.
#[derive(Debug)]
struct NoWorkers;

impl Workers for NoWorkers {
    fn start(&self) -> Boxed<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn serving(&self) -> Boxed<'_, Vec<WorkerId>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn load_ahead(&self, _: WorkerId, _: Slot, _: String) -> Boxed<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn drop_loaded_ahead(&self, _: Slot) -> Boxed<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn unload(&self, _: Slot) -> Boxed<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn switch_idle_workers(&self) {}
}

/// A model whose generations 1 and 2 are kept. Generation 2 serves.
struct Setup {
    _root: tempfile::TempDir,
    updater: Updater,
    deps: Deps,
    script: Arc<Script>,
    /// The digests of the generations.
    versions: [String; 2],
}

/// Creates a whole version without files and its record.
fn record(store: &Store, generation: Generation) -> String {
    let manifest = format!("onnxd manifest 1\n{generation}\n");
    let version = hex(&Sha256::digest(&manifest));
    fs::create_dir_all(store.layout().version(&version)).unwrap();
    fs::write(store.layout().version(&version).join(MANIFEST), manifest).unwrap();
    let record = described(&version, Facts::new(Task::Embed), None);
    store.record(&"m".parse().unwrap(), generation, &record).unwrap();
    version
}

fn described(version: &str, facts: Facts, min_cosine: Option<f64>) -> Record {
    let drift =
        min_cosine.map(|cosine| Drift { min_cosine: cosine, mean_cosine: cosine, probes: 16 });
    Record { version: version.into(), configured_source: "/x".parse().unwrap(), facts, drift }
}

impl Setup {
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), 3, ByName::sources(), None).unwrap();
        let versions = [1, 2].map(|generation| record(&store, generation));
        let metrics = Arc::new(Metrics::default());
        let source = ModelSource {
            name: "m".parse().unwrap(),
            aliases: Vec::new(),
            uri: "/x".parse().unwrap(),
            preload: true,
            required: false,
            rules: SourceRules::default(),
        };
        let page = ControlPage::create().unwrap();
        let registry = Arc::new(Registry::new(&[source], page, Arc::clone(&metrics)));
        let script = Arc::new(Script::default());
        *script.registry.lock().unwrap() = Arc::downgrade(&registry);
        let limits = CheckLimits {
            timeout: Duration::from_secs(60),
            memory_bytes: 1 << 30,
            min_cosine: None,
            worker_bytes: None,
            text_time: Duration::from_secs(1),
            strict: false,
        };
        let tasks = EssentialTasks::default();
        // Compiles nothing, and succeeds.
        let worker = WorkerExecutable::open("/bin/true".as_ref(), "/".as_ref(), true).unwrap();
        let deps = Deps {
            store: Arc::new(store),
            registry,
            checker: Checker::new(worker, limits, &tasks).unwrap(),
            metrics,
            times: Times { load_ahead: Duration::from_secs(1), probation: Duration::from_secs(1) },
            background: Background::default(),
            request_timeout: Duration::from_secs(1),
            tasks,
            workers: Arc::new(NoWorkers),
            indexes: Arc::clone(&script) as Arc<dyn Indexes>,
            candidates: Arc::new(Silent),
            coordinator: Arc::new(LocalCoordinator),
            tracer: Tracer::default(),
        };
        let updater = Updater::new(&deps);
        let setup = Self { _root: root, updater, deps, script, versions };
        let loaded = setup.updater.request_load(setup.model(), Load::Ahead).await;
        assert!(loaded.is_ok() && setup.generation() == 2);
        setup
    }

    fn model(&self) -> &Arc<Model> {
        self.deps.registry.at(0)
    }

    fn generation(&self) -> Generation {
        self.model().serving().map_or(0, |(generation, _)| generation)
    }

    /// Rolls back to generation 1, and returns the reported steps with the outcome.
    async fn roll_back(&self) -> (Vec<Step>, Result<onnxd_proto::domain::Outcome, Refusal>) {
        self.update(Target::Generation(Some(1))).await
    }

    async fn update(
        &self,
        target: Target,
    ) -> (Vec<Step>, Result<onnxd_proto::domain::Outcome, Refusal>) {
        let (progress, mut steps) = mpsc::channel(16);
        let job = Job::unconditional(target, Load::Ahead);
        let outcome = self.updater.update(self.model(), job, progress).await;
        let mut reported = Vec::new();
        while let Ok(step) = steps.try_recv() {
            reported.push(step);
        }
        (reported, outcome)
    }
}

#[tokio::test]
async fn writes_are_held_back_until_the_commit_is_published() {
    let setup = Setup::new().await;
    let [first, _] = &setup.versions;
    let released = |generation| format!("released with generation {generation}");
    assert!(setup.script.events().is_empty(), "a start waits for no index and removes none");

    let (steps, outcome) = setup.roll_back().await;
    assert_eq!(outcome.unwrap().generation, 3);
    assert!(matches!(steps[..], [.., Step::Indexed { documents: 20, .. }]), "{steps:?}");
    let Some(Step::Indexing(status)) = steps.first() else { panic!("{steps:?}") };
    assert_eq!((status.done, status.of, status.per_second), (5, 20, None));
    assert_eq!(setup.model().indexing(), None, "nothing is being embedded");
    let metrics = &setup.deps.metrics.model(0).index;
    assert_eq!((metrics.documents_embedded(), metrics.documents_remaining()), (15, 0));

    setup.script.running.notified().await;
    while setup.script.events.lock().unwrap().len() < 3 {
        setup.script.running.notified().await;
    }
    let expected =
        [format!("complete m for {first}, Kept"), released(3), "keep 2 versions of m".to_owned()];
    assert_eq!(setup.script.events(), expected);
}

#[tokio::test]
async fn incomplete_indexes_refuse_the_update_but_not_a_rollback() {
    let setup = Setup::new().await;
    *setup.script.outcome.lock().unwrap() = Outcome::Fail;
    let update = Target::Version(setup.versions[0].clone());
    let refusal = setup.update(update).await.1.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Space);
    assert_eq!(refusal.message, "the documents cannot be embedded again: the disk is full");
    assert_eq!(setup.generation(), 2);
    assert_eq!(setup.model().indexing(), None);
    assert_eq!(setup.roll_back().await.1.unwrap().generation, 3);
}

#[tokio::test]
async fn cancel_ends_embedding() {
    let setup = Setup::new().await;
    *setup.script.outcome.lock().unwrap() = Outcome::Never;
    let cancel = async {
        setup.script.running.notified().await;
        while setup.model().indexing().is_none() {
            tokio::task::yield_now().await;
        }
        setup.updater.cancel(setup.model()).await
    };
    let ((_, outcome), cancelled) = tokio::join!(setup.roll_back(), cancel);
    assert_eq!(cancelled, Ok(1));
    assert_eq!(outcome.unwrap_err().kind, RefusalKind::Cancelled);
    assert_eq!((setup.generation(), setup.model().indexing()), (2, None));
    assert_eq!(setup.deps.metrics.model(0).index.documents_remaining(), 0);

    *setup.script.outcome.lock().unwrap() = Outcome::Complete;
    assert_eq!(setup.roll_back().await.1.unwrap().generation, 3, "the next one goes on");
}

#[tokio::test]
async fn lazy_updates_of_a_model_with_documents_are_refused() {
    let setup = Setup::new().await;
    let (progress, _) = mpsc::channel(1);
    let job = Job::unconditional(Target::Generation(Some(1)), Load::Lazy);
    let refusal = setup.updater.update(setup.model(), job, progress).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Contract);
    assert!(refusal.message.contains("update with --load ahead"), "{refusal}");
    assert!(setup.updater.unload(setup.model()).await.is_ok(), "an unload loads nothing");
}

#[test]
fn vectors_are_kept_if_the_check_or_the_operator_says_so() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), 3, ByName::sources(), None).unwrap();
    for (version, config) in [("a", "11"), ("b", "11"), ("c", "22")] {
        let folder = store.layout().version(version);
        fs::create_dir_all(&folder).unwrap();
        let manifest =
            format!("onnxd manifest 1\n{config}  2  config.json\n{version}  2  m.onnx\n");
        fs::write(folder.join(MANIFEST), manifest).unwrap();
    }
    let facts = Facts { dimension: 4, normalize: true, ..Facts::new(Task::Embed) };
    let serving = described("a", facts.clone(), None);
    let reused = |is_requested, version: &str, facts: &Facts, min_cosine| {
        let candidate = described(version, facts.clone(), min_cosine);
        let reuse = Reuse { store: &store, is_requested, is_forced: false };
        reuse.from(&candidate, Some(&serving)).map_err(|refusal| refusal.kind)
    };
    let kept = Ok(Some("a".to_owned()));
    assert_eq!(reused(false, "b", &facts, Some(0.9999)), kept);
    assert_eq!(reused(false, "b", &facts, Some(0.9998)), Ok(None));
    assert_eq!(reused(false, "b", &facts, None), Ok(None), "nothing was measured");
    assert_eq!(reused(false, "c", &facts, Some(1.0)), Ok(None), "other settings");
    assert_eq!(reused(true, "c", &facts, Some(0.9)), kept);
    assert_eq!(reused(true, "c", &facts, Some(0.1)), Err(RefusalKind::Contract), "other spaces");
    let far = described("c", facts.clone(), Some(0.1));
    let forced = Reuse { store: &store, is_requested: true, is_forced: true };
    assert_eq!(forced.from(&far, Some(&serving)).unwrap(), Some("a".to_owned()));
    assert_eq!(reused(true, "a", &facts, None), Ok(None), "the vectors are its own");
    let switch = SwitchFacts { name: "s".into(), default: None, values: Default::default() };
    for other in [
        Facts { normalize: false, ..facts.clone() },
        Facts { max_tokens: 8, ..facts.clone() },
        Facts { prompts: vec!["query".into()], ..facts.clone() },
        Facts { switches: vec![switch], ..facts.clone() },
    ] {
        assert_eq!(reused(false, "b", &other, Some(1.0)), Ok(None), "{other:?}");
    }
    let wider = Facts { dimension: 8, ..facts.clone() };
    assert_eq!(reused(false, "b", &wider, None), Ok(None));
    assert_eq!(reused(true, "b", &wider, None), Err(RefusalKind::Contract));
    let candidate = described("b", facts, None);
    let reuse = Reuse { store: &store, is_requested: true, is_forced: false };
    assert_eq!(reuse.from(&candidate, None), Ok(None), "nothing serves");
}

#[test]
fn rate_counts_what_was_embedded_since_the_first_report() {
    let progress = |done| IndexProgress { done, total: 1000 };
    let at = |done, seconds| status(progress(done), progress(100), Duration::from_secs(seconds));
    assert_eq!((at(100, 0).per_second, at(100, 5).seconds_left), (None, None));
    assert_eq!((at(200, 10).per_second, at(200, 10).seconds_left), (Some(10.0), Some(80.0)));
}
