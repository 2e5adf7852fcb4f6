//! State shared by all tasks of a run: the server, the expected answers and the ledger.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::{control::Control, grpc, launch::Builder, server::Server, web::Web};

use crate::{
    container::Container,
    ledger::Ledger,
    models::{self, Content, MODELS, Model, SPARE},
    options::Options,
    probe::{Connections, Probe},
    uploads::{self, UPLOADED},
};

/// A check of a good candidate ends sooner than this, even under load.
const CHECK_SECONDS: &str = "60";
/// Short: workers are killed all the time, so a longer probation would quarantine every version.
const PROBATION_SECONDS: &str = "2";

/// Enough for a request with 300 texts and a few abandoned ones, in addition to all others. A storm
/// exceeds it.
const QUEUE_LIMIT: &str = "1024";
/// More than are killed within a minute.
const WORKER_RESTARTS: &str = "100000";

/// A run.
#[derive(Debug)]
pub(crate) struct World {
    pub options: Options,
    pub server: Server,
    pub control: Control,
    pub start: Instant,
    pub probes: Vec<Probe>,
    /// By model, its two known versions.
    pub versions: BTreeMap<&'static str, [String; 2]>,
    /// The limits of the server, with `--container`.
    pub container: Option<Container>,
    /// The source of uploaded models.
    _web: Option<Web>,
    /// Held while a request with 300 texts is in flight. Two at a time would overload the server.
    pub many: tokio::sync::Mutex<()>,
    ledger: Mutex<Ledger>,
    stop: AtomicBool,
}

impl World {
    /// Starts a server and learns the answers of its models.
    ///
    /// # Errors
    /// With `--container`: this machine allows no control groups.
    pub(crate) async fn start(options: &Options) -> Result<Self, String> {
        let container = options.container.then(Container::create).transpose()?;
        let builder = grpc::listening(Server::builder()).workers(options.workers);
        models::prepare(&builder.directories());
        let web = options.sources.then(|| uploads::serve(&builder.directories()));
        let mut builder = with_arguments(builder, options);
        if let Some(web) = &web {
            builder = uploads::add(builder, web);
        }
        if let Some(container) = &container {
            let launcher = container.group().launcher(builder.directories().root());
            builder = builder.executable(&launcher);
        }
        let server = builder.start().await;
        let control = Control::new(&server);
        let uploaded: &[Model] = if options.sources { &UPLOADED } else { &[] };
        let names = MODELS.iter().chain([&SPARE]).chain(uploaded).map(|model| model.name);
        let mut world = Self {
            options: options.clone(),
            server,
            control,
            start: Instant::now(),
            probes: Vec::new(),
            versions: BTreeMap::new(),
            container,
            _web: web,
            many: tokio::sync::Mutex::new(()),
            ledger: Mutex::new(Ledger::new(names)),
            stop: AtomicBool::new(false),
        };
        for model in MODELS {
            world.learn(model).await;
        }
        // These have the contents of the first model. The spare one must not be loaded yet.
        let first: Vec<Probe> = world.probes.clone();
        let same_contents = [SPARE].into_iter().chain(uploaded.iter().copied());
        for probe in same_contents.flat_map(Probe::all) {
            let same = |learned: &&Probe| learned.route() == probe.route();
            let known = first.iter().find(same).expect("a learned route").known.clone();
            world.probes.push(Probe { known, ..probe });
        }
        let versions = world.versions[MODELS[0].name].clone();
        world.declare(SPARE.name, &versions);
        world.versions.insert(SPARE.name, versions);
        Ok(world)
    }

    async fn learn(&mut self, model: Model) {
        let mut all = Probe::all(model);
        let mut connections = Connections::open(&self.server).await;
        let mut versions = [String::new(), String::new()];
        let mut last = 0;
        for (index, content) in [(1, Content::B), (0, Content::A)] {
            let from = model.directory(content);
            let committed = self.update(model.name, &from).await;
            for one in &mut all {
                one.learn(&mut connections, content.name()).await;
            }
            (last, versions[index]) = (committed.generation, committed.version);
        }
        for Probe { transport, known, .. } in &all {
            assert_ne!(known["a"], known["b"], "{transport:?}: both contents answer the same");
        }
        self.declare(model.name, &versions);
        let live_versions = versions.clone();
        let mut ledger = self.ledger();
        let found = ledger.history(model.name).committed(
            Duration::ZERO,
            last..=last,
            &live_versions[0],
            Some(Content::A.name()),
        );
        ledger.found(model.name, found);
        drop(ledger);
        self.versions.insert(model.name, versions);
        self.probes.extend(all);
    }

    async fn update(&self, model: &str, from: &Path) -> e2e::admin::Committed {
        self.control.update(model, from, "ahead").await.end().await.1.expect("a good model")
    }

    fn declare(&self, model: &str, versions: &[String; 2]) {
        let mut ledger = self.ledger();
        for (content, version) in Content::ALL.iter().zip(versions) {
            let found = ledger.history(model).version(version, content.name());
            ledger.found(model, found);
        }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Adds an event to the dump.
    pub(crate) fn note(&self, event: &str) {
        let now = self.now();
        self.ledger().note(now, event);
    }

    /// Reports a violated guarantee.
    pub(crate) fn violated(&self, what: &str) {
        let now = self.now().as_secs_f64();
        self.ledger().violated(format!("{now:.3}: {what}"));
    }

    /// Tells all clients to stop.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Stops the server as systemd does and checks that it leaves nothing behind.
    pub(crate) async fn end(self: Arc<Self>) -> Result<(), String> {
        let world = Arc::into_inner(self).ok_or("a task of the run is still running")?;
        let stopping = tokio::spawn(world.server.stop());
        stopping.await.map_err(|error| format!("stopping the server failed: {error}"))
    }
}

fn with_arguments(builder: Builder, options: &Options) -> Builder {
    let home = builder.directories();
    let mut builder = with_faults_in_mind(builder, &options.serve);
    for model in MODELS {
        builder = builder.argument(&format!("--preload={}", model.name));
    }
    for model in MODELS.iter().chain([&SPARE]) {
        builder = builder.model(model.name, &model.source(&home));
    }
    builder
}

/// Adds the arguments of a server whose workers are killed all the time, and `more`.
pub(crate) fn with_faults_in_mind(builder: Builder, more: &[String]) -> Builder {
    let builder = builder
        .argument("--check-timeout")
        .argument(CHECK_SECONDS)
        .argument("--probation")
        .argument(PROBATION_SECONDS)
        .argument("--queue-limit")
        .argument(QUEUE_LIMIT)
        .argument("--worker-restarts")
        .argument(WORKER_RESTARTS);
    more.iter().fold(builder, |builder, argument| builder.argument(argument))
}
