//! Constructs the [`Server`] and starts its tasks, in dependency order. Called by [`crate::serve`].

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use onnxd_proto::{control_page::ControlPage, limits::TENSORS_BYTES_MAX, wire::message::Welcome};
use tokio::{
    sync::{mpsc, watch},
    task::{self, JoinHandle},
};

use super::{
    Server, kept, search,
    sockets::Sockets,
    traces,
    workers::{check_limits, worker_cpus, workers},
};
use crate::{
    admin::{self, Admin},
    api::{
        app::{App, Observed},
        grpc, router,
    },
    config::Config,
    process::{control_groups, descriptors, exporter::Exporter, inherited::Inherited, machine},
    transport::{
        edge::Edge,
        listener::{Listener, Routes},
        slots::ConnectionSlots,
    },
};
use onnxd_engine::{
    Engine,
    dispatch::{
        Backlog, Event,
        actor::state::{self, Dispatcher, EVENTS_MAX},
        gather::{Dispatch, Limits},
        workers::WorkerRequests,
    },
    engine::{
        MemoryBudget, Parts,
        candidates::{CandidateParts, CandidateWorkers},
    },
    models::{
        indexes::Indexes,
        machine::Times,
        registry::Registry,
        requester::Requester,
        sources::{Sources, fetcher::Fetcher},
        store::Store,
        update::{
            self, LOAD_AHEAD_TIMEOUT, RestoreError, Updater, background::Background,
            checker::Checker, coordinator::LocalCoordinator,
        },
        watch::{self as sources_watch, Watches},
    },
    pool::{executable::WorkerExecutable, oom::OomKills},
    tasks::EssentialTasks,
};
use onnxd_proto::exit::Failure;
use onnxd_telemetry::metrics::Metrics;

impl Server {
    /// Locks the state directory, binds the sockets, and starts to answer. No model is loaded and no
    /// worker runs before [`Server::restore`].
    ///
    /// # Errors
    /// The configuration does not work on this machine, or a resource is missing.
    pub(super) async fn start(
        config: &Config,
        edge: &Edge,
        background: &Background,
        inherited: &mut Inherited,
        tasks: &EssentialTasks,
    ) -> Result<Self, Failure> {
        let worker_files = worker_files(config)?;
        let (events, incoming) = mpsc::channel(EVENTS_MAX);
        let lock = inherited.lock.take();
        let metrics = Arc::new(Metrics::new(&templates(config)));
        let parts = (tasks, &metrics);
        let collections = search::collections(config, inherited.is_successor(), parts)?;
        let indexes = search::indexes(&collections);
        let parts = (&worker_files, indexes, metrics);
        let (updates, exporter) = updates(config, parts, lock, (&events, background, tasks))?;
        // Before anything slow, so that a wrong address is reported immediately.
        let sockets = Sockets::bind(config, inherited).await?;
        search::probe(config).await?;
        let updater = Arc::new(Updater::new(&updates));
        let models = updates.registry.models().len();
        let workers = workers(config, &worker_files, models, (&events, tasks))?;
        let worker_count = workers.len();
        let backlog = Arc::new(Backlog::default());
        let dispatching = state::Deps {
            registry: Arc::clone(&updates.registry),
            metrics: Arc::clone(&updates.metrics),
            supervision: config.supervision,
            welcome: welcome(config, &updates.registry, &sockets),
            updates: updater.handles(),
            events: events.clone(),
            backlog: Arc::clone(&backlog),
            worker_memory_bytes: config.worker_memory_bytes,
        };
        let (dispatcher, health) = Dispatcher::new(dispatching, workers);
        tasks.spawn("dispatcher", dispatcher.run(incoming));

        let body_memory_bytes = machine::body_memory_bytes(config.body_memory_bytes);
        log_limits(worker_count, body_memory_bytes);
        let limits = Limits { items: config.queue_limit, timeout: config.request_timeout };
        let metrics = Arc::clone(&updates.metrics);
        let parts = Parts {
            registry: Arc::clone(&updates.registry),
            dispatch: Dispatch::new(events.clone(), Arc::clone(&metrics), limits, backlog, models),
            metrics,
            updater: Arc::clone(&updater),
            health,
            events: events.clone(),
            workers: worker_count,
        };
        let engine = Arc::new(Engine::new(parts, MemoryBudget::new(body_memory_bytes)));
        let observed = Observed { layout: updates.store.layout().clone(), tls: edge.tls.clone() };
        let (client_batch, observed) = (config.max_client_batch_size, Arc::new(observed));
        let search = search::service(&collections, &engine);
        let app = App { engine, search, client_batch, tracer: updates.tracer.clone(), observed };
        let admin = Admin {
            engine: Arc::clone(&app.engine),
            watches: watches(config, &updates, &updater),
            registry: updates.registry,
            updater,
            store: updates.store,
            events,
            metrics: updates.metrics,
            calls: Admin::calls(),
            allowed_sources: config.allowed_sources.clone(),
            requester: Requester::Operator,
        };
        let server =
            Self::listen(config, edge, sockets, Interfaces { app, admin }, tasks.clone()).await?;
        let collections = collections.ok();
        let server = Self { exporter, collections, reporter: inherited.reporter.take(), ..server };
        // A successor does not accept yet: its predecessor still does.
        if !inherited.is_successor() {
            server.open.send_replace(true);
            let grpc_listen = server.grpc_listen.map(tracing::field::display);
            tracing::info!(listen = %server.listen, grpc_listen, "listening");
        }
        Ok(server)
    }

    /// Loads the models and starts the workers; see [`Updater::restore`].
    ///
    /// # Errors
    /// A model that the server needs cannot be served.
    pub(super) async fn restore(&self) -> Result<(), Failure> {
        let workers = WorkerRequests::new(self.events.clone());
        self.updater.restore(&workers).await.map_err(|error| match error {
            RestoreError::Refused { .. } => Failure::configuration(error.to_string()),
            RestoreError::Ended { .. } => Failure::internal(error.to_string()),
        })
    }

    /// Checks that a successor would not go back to an earlier generation; see [`Store::require_newest`].
    ///
    /// # Errors
    /// The newest generation of a model is damaged.
    pub(super) async fn require_newest(&self) -> Result<(), Failure> {
        let (store, models) = (Arc::clone(&self.store), self.engine.models().to_vec());
        let require = move || models.iter().try_for_each(|model| store.require_newest(&model.name));
        // It reads all files of the versions.
        let checked = task::spawn_blocking(require).await;
        checked.unwrap_or_else(|error| Err(Failure::internal(format!("internal error: {error}"))))
    }

    /// Starts the listeners on the bound sockets.
    async fn listen(
        config: &Config,
        edge: &Edge,
        sockets: Sockets,
        Interfaces { app, admin }: Interfaces,
        tasks: EssentialTasks,
    ) -> Result<Self, Failure> {
        let successor_descriptors = sockets
            .successor_descriptors()
            .map_err(|error| Failure::internal(format!("cannot duplicate a socket: {error}")))?;
        let Sockets { public, listen, grpc, admin_tcp, admin: admin_socket, .. } = sockets;
        let admin_is_passed = admin_socket.is_passed();
        let connections =
            descriptors::connections(descriptors::raise(), config.max_connections.map(Into::into));
        let slots = ConnectionSlots::new(connections);
        let metrics = Arc::clone(app.engine.metrics());
        let shared = || (Arc::clone(&metrics), Arc::clone(&slots));
        let (updater, health) = (Arc::clone(&admin.updater), app.engine.health());
        let (events, store) = (admin.events.clone(), Arc::clone(&admin.store));
        let (stop_accepting, drain) = watch::channel(false);
        let (open, opened) = watch::channel(false);
        let drain_timeout = config.drain_timeout;
        let lifecycle = Lifecycle { opened, drain, drain_timeout, tasks: tasks.clone() };

        let listener =
            Listener::new(public, edge, router::routes(app.clone()), shared()).with_http2();
        let ticks = listener.ticks();
        let mut listeners = vec![lifecycle.spawn("HTTP listener", listener)];
        let grpc_listen = grpc.as_ref().map(|(_, address)| *address);
        if let Some((socket, _)) = grpc {
            let keys = edge.keys.clone();
            let services = grpc::router(app.clone(), keys, lifecycle.drain.clone(), &tasks).await?;
            let listener = Listener::http2(socket, edge, (services, grpc::may_idle), shared());
            listeners.push(lifecycle.spawn("gRPC listener", listener));
        }

        let admin_router = admin::router(admin.clone());
        if let Some((socket, listen)) = admin_tcp {
            let health = router::health(app.clone());
            let admin = Admin { requester: Requester::Network, ..admin };
            let mut router = admin::guarded(admin::router(admin.clone()), listen.token, health);
            if let Some(secret) = listen.webhook_secret {
                router = router.merge(admin::webhook::routes(admin, secret));
            }
            let limits = (Arc::clone(&metrics), ConnectionSlots::new(admin::CONNECTIONS_MAX));
            let routes = Routes { router, shapes: router::shapes() };
            let admin_edge = Edge::open(edge.access_log.clone());
            // The drain does not wait for this one: its calls end with the updates, when the drain begins.
            lifecycle.spawn("admin listener", Listener::new(socket, &admin_edge, routes, limits));
        }
        let admin = tasks.spawn("admin socket", admin_socket.serve(admin_router));
        Ok(Self {
            listen,
            grpc_listen,
            engine: app.engine,
            updater,
            store,
            open,
            successor_descriptors,
            admin_is_passed,
            events,
            health,
            stop_accepting,
            ticks,
            listeners,
            admin,
            tasks,
            exporter: None,
            collections: None,
            reporter: None,
        })
    }
}

/// Opens the executable of workers, and watches for those that the kernel kills.
fn worker_files(config: &Config) -> Result<(WorkerExecutable, OomKills), Failure> {
    let (binary, library) = (&config.worker_binary, &config.onnxruntime);
    let executable = WorkerExecutable::open(binary, library, config.sandbox)
        .map_err(|error| Failure::configuration(format!("--worker-binary: {error}")))?;
    let oom_kills = OomKills::new(control_groups::oom_kills);
    tokio::spawn(oom_kills.clone().watch());
    Ok((executable, oom_kills))
}

/// The state of the public and the admin handlers.
struct Interfaces {
    app: App,
    admin: Admin,
}

/// When listeners start and stop accepting.
struct Lifecycle {
    /// Becomes true when they may accept.
    opened: watch::Receiver<bool>,
    /// Becomes true when they must drain.
    drain: watch::Receiver<bool>,
    drain_timeout: Duration,
    tasks: EssentialTasks,
}

impl Lifecycle {
    /// Spawns a task that runs a listener until it is drained.
    fn spawn(&self, name: &str, listener: Listener) -> JoinHandle<()> {
        let (mut opened, drain, timeout) =
            (self.opened.clone(), self.drain.clone(), self.drain_timeout);
        self.tasks.spawn(name, async move {
            // An error means that the sender was dropped: the drain has begun as well.
            let _ = opened.wait_for(|opened| *opened).await;
            listener.run(drain, timeout).await;
        })
    }
}

/// Logs what the server may use, and where those limits come from.
pub(super) fn log_limits(workers: usize, body_memory_bytes: usize) {
    let groups = match machine::limits() {
        limits if limits.is_empty() => "no limits".to_owned(),
        limits => limits.join(", "),
    };
    let body_memory_mib = body_memory_bytes >> 20;
    tracing::info!(workers, body_memory_mib, groups, "limits");
    if body_memory_bytes < TENSORS_BYTES_MAX {
        let message = "bodies larger than this are refused; raise --body-memory or the container's memory limit";
        tracing::warn!(body_memory_mib, "{message}");
    }
}

/// Opens the program that reads sources on other servers.
fn fetcher(path: Option<&Path>, sandbox: bool) -> Result<Option<Fetcher>, Failure> {
    let open = |path| Fetcher::open(path, sandbox);
    path.map(open)
        .transpose()
        .map_err(|error| Failure::configuration(format!("--fetch-binary: {error}")))
}

/// Returns the first message to every worker.
fn welcome(config: &Config, registry: &Registry, sockets: &Sockets) -> Welcome {
    Welcome {
        onnxruntime: config.onnxruntime.clone(),
        state_dir: config.state_dir.clone(),
        models: registry.slots(),
        admin_socket: sockets.admin.name(),
        helper_cpus: Vec::new(),
    }
}

/// Returns the route templates that label request metrics.
fn templates(config: &Config) -> Vec<String> {
    let mut templates = router::templates();
    if config.grpc_listen.is_some() {
        templates.extend(grpc::templates());
    }
    templates
}

/// Opens the state directory and returns what updates need.
fn updates(
    config: &Config,
    ((executable, oom_kills), indexes, metrics): (
        &(WorkerExecutable, OomKills),
        Arc<dyn Indexes>,
        Arc<Metrics>,
    ),
    lock: Option<std::fs::File>,
    (events, background, tasks): (&mpsc::Sender<Event>, &Background, &EssentialTasks),
) -> Result<(update::Deps, Option<Exporter>), Failure> {
    let fetcher = fetcher(config.fetch_binary.as_deref(), config.sandbox)?;
    let sources = Sources::new(executable.clone(), fetcher.clone());
    let store = Store::open(&config.state_dir, config.retention, sources, lock)?;
    store.remove_unconfigured(&config.models);
    store.adopt_renamed(&config.models)?;
    let page = ControlPage::create()
        .map_err(|error| Failure::internal(format!("cannot create the control page: {error}")))?;
    metrics.sandbox.store(config.sandbox, Ordering::Relaxed);
    let (tracer, exporter) = traces::start(config, fetcher, &metrics)?;
    let registry = Registry::new(&config.models, page, Arc::clone(&metrics));
    kept::report(&store, &config.models, &registry, &metrics);
    let store = Arc::new(store);
    let candidates = CandidateWorkers::new(CandidateParts {
        store: Arc::clone(&store),
        executable: executable.clone(),
        oom_kills: oom_kills.clone(),
        cpus: worker_cpus(config)?,
        restarts_max: config.supervision.restarts_max,
        worker_memory_bytes: config.worker_memory_bytes,
    });
    let deps = update::Deps {
        store,
        registry: Arc::new(registry),
        checker: Checker::new(executable.clone(), check_limits(config)?, tasks)?,
        metrics,
        times: Times { load_ahead: LOAD_AHEAD_TIMEOUT, probation: config.probation },
        request_timeout: config.request_timeout,
        workers: Arc::new(WorkerRequests::new(events.clone())),
        indexes,
        candidates: Arc::new(candidates),
        coordinator: Arc::new(LocalCoordinator),
        background: background.clone(),
        tasks: tasks.clone(),
        tracer,
    };
    Ok((deps, exporter))
}

/// Starts to watch the sources for which there is an interval.
fn watches(config: &Config, updates: &update::Deps, updater: &Arc<Updater>) -> Arc<Watches> {
    let deps = sources_watch::Deps {
        registry: Arc::clone(&updates.registry),
        updater: Arc::clone(updater),
        store: Arc::clone(&updates.store),
        metrics: Arc::clone(&updates.metrics),
        background: updates.background.clone(),
        tasks: updates.tasks.clone(),
    };
    Watches::start(&deps, |model| config.poll.get(model.name.as_str()).copied())
}
