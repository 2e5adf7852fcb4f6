//! `onnxd serve`, from the configuration to the exit code, in the order in which it happens.

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use onnxd_proto::{control_page::ControlPage, exit::ExitStatus, message::Welcome};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinHandle,
    time,
};
use tracing_subscriber::EnvFilter;

use crate::{
    Failure,
    config::{Config, ServeArguments},
    confinement, descriptors,
    dispatch::{
        Backlog, Event,
        dispatcher::{self, Dispatcher, EVENTS_MAX, Health},
        gather::{Dispatch, Limits},
        worker::Worker,
    },
    grpc,
    http::{
        admin::{self, Admin},
        edge::Edge,
        listener::Listener,
        places::Places,
        router::{self, App},
        sockets::Sockets,
    },
    metrics::Metrics,
    models::{
        background::Background,
        checker::Checker,
        line::Times,
        registry::Registry,
        store::Store,
        update::{self, LOAD_AHEAD_TIMEOUT, Updater},
    },
    pool::{executable::WorkerExecutable, keeper::Keeper},
    signals::{Request, Signals},
    systemd,
};

/// How long an update that is given up may take to remove what it made.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the supervisor until it is told to stop.
///
/// # Errors
/// Why it could not start, or had to stop.
pub(crate) fn main(arguments: ServeArguments) -> Result<ExitStatus, Failure> {
    onnxd_proto::log::write_panics();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("ONNXD_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_writer(|| onnxd_proto::log::Stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let check_only = arguments.check_config;
    let config = Config::load(arguments)?;
    let edge = Edge::load(&config.edge)?;
    if check_only {
        return check(&config);
    }
    // Before there is a second thread, for which it would have to hold, too.
    confinement::begin(config.sandbox);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("the runtime: {error}")))?;
    let result = runtime.block_on(run(config, edge));
    // Nothing that matters runs any more; what is dropped here removes its files.
    runtime.shutdown_timeout(CLEAN_UP_TIMEOUT);
    result
}

/// What `--check-config` looks at beyond what loading the configuration does.
fn check(config: &Config) -> Result<ExitStatus, Failure> {
    for model in &config.models {
        if !model.directory.is_dir() {
            let path = model.directory.display();
            let message = format!("--model {}: the directory {path} is not there", model.name);
            return Err(Failure::configuration(message));
        }
    }
    crate::cli::say("the configuration is fine");
    Ok(ExitStatus::Fine)
}

async fn run(config: Config, edge: Edge) -> Result<ExitStatus, Failure> {
    let background = Background::default();
    let outcome = serve(&config, &edge, &background).await;
    // Updates that were given up remove what they made.
    if time::timeout(CLEAN_UP_TIMEOUT, background.finish()).await.is_err() {
        tracing::error!("an update did not stop; the next start removes what it leaves");
    }
    outcome
}

async fn serve(
    config: &Config,
    edge: &Edge,
    background: &Background,
) -> Result<ExitStatus, Failure> {
    let mut signals = Signals::install().map_err(|error| Failure::internal(error.to_string()))?;
    let server = tokio::select! {
        server = Server::start(config, edge, background) => server?,
        () = signals.stop() => return Ok(ExitStatus::Fine),
    };
    let mut server = tokio::select! {
        warm = server.warm_up() => warm?,
        () = signals.stop() => return Ok(ExitStatus::Fine),
    };
    systemd::ready("serving");
    tracing::info!(
        listen = %server.listen,
        grpc_listen = server.grpc_listen.map(tracing::field::display),
        admin_socket = %config.admin_socket.display(),
        "ready"
    );
    server.watchdog();
    let outcome = server.serve(edge, &mut signals).await;
    systemd::stopping();
    tokio::select! {
        () = server.drain(config.drain_timeout) => {}
        () = signals.stop() => tracing::warn!("told to stop twice: ending at once"),
    }
    outcome
}

/// Everything that runs.
#[derive(Debug)]
struct Server {
    listen: std::net::SocketAddr,
    grpc_listen: Option<std::net::SocketAddr>,
    updater: Arc<Updater>,
    events: mpsc::Sender<Event>,
    health: watch::Receiver<Health>,
    stop_accepting: watch::Sender<bool>,
    ticks: Arc<AtomicU64>,
    listeners: Vec<JoinHandle<()>>,
    admin: JoinHandle<()>,
}

impl Server {
    /// Locks the state, binds, brings every model to a generation, and starts the workers.
    async fn start(config: &Config, edge: &Edge, background: &Background) -> Result<Self, Failure> {
        let store = Arc::new(Store::open(&config.state_dir, config.retention)?);
        let (binary, library) = (&config.worker_binary, &config.onnxruntime);
        let executable = WorkerExecutable::open(binary, library, config.sandbox)
            .map_err(|error| Failure::configuration(format!("--worker-binary: {error}")))?;
        let page = ControlPage::create()
            .map_err(|error| Failure::internal(format!("the control page: {error}")))?;
        let metrics = Arc::new(Metrics::new(&templates(config)));
        metrics.sandbox.store(config.sandbox, Ordering::Relaxed);
        let registry = Arc::new(Registry::new(&config.models, page, Arc::clone(&metrics)));
        let (events, incoming) = mpsc::channel(EVENTS_MAX);
        // Bound before anything that takes long, so that a wrong address is known at once.
        let sockets = Sockets::bind(config).await?;
        let means = update::Means {
            store: Arc::clone(&store),
            registry: Arc::clone(&registry),
            checker: Checker::new(executable.clone(), config.check),
            metrics: Arc::clone(&metrics),
            times: Times { load_ahead: LOAD_AHEAD_TIMEOUT, probation: config.probation },
            request_timeout: config.request_timeout,
            events: events.clone(),
            background: background.clone(),
        };
        let updater = Arc::new(restore(&means).await?);
        let welcome = Welcome {
            onnxruntime: config.onnxruntime.clone(),
            state_dir: config.state_dir.clone(),
            models: registry.slots(),
            admin_socket: sockets.admin.name(),
            helper_cpus: Vec::new(),
        };
        let workers = workers(config, &executable, registry.models().len(), &events)?;
        let worker_count = workers.len();
        let backlog = Arc::new(Backlog::default());
        let means = dispatcher::Means {
            registry: Arc::clone(&registry),
            metrics: Arc::clone(&metrics),
            welcome,
            lines: updater.lines(),
            events: events.clone(),
            backlog: Arc::clone(&backlog),
        };
        let (dispatcher, health) = Dispatcher::new(means, workers);
        tokio::spawn(dispatcher.run(incoming));

        let limits = Limits { items: config.queue_limit, timeout: config.request_timeout };
        let dispatch = Dispatch::new(
            events.clone(),
            Arc::clone(&metrics),
            limits,
            backlog,
            registry.models().len(),
        );
        let app = App {
            registry: Arc::clone(&registry),
            dispatch: Arc::new(dispatch),
            metrics: Arc::clone(&metrics),
            updater: Arc::clone(&updater),
            health,
            workers: worker_count,
            limits: router::Limits { client_batch: config.max_client_batch_size },
            bodies: Arc::new(Semaphore::new(router::BODIES_KIBIBYTES_MAX)),
        };
        let calls = Admin::calls();
        let admin = Admin { registry, updater, store, events, metrics, calls };
        Self::listen(config, edge, sockets, (app, admin)).await
    }

    /// Serves what is bound.
    async fn listen(
        config: &Config,
        edge: &Edge,
        sockets: Sockets,
        (app, admin): (App, Admin),
    ) -> Result<Self, Failure> {
        let Sockets { public, listen, grpc, admin_tcp, admin: admin_socket } = sockets;
        let connections =
            descriptors::connections(descriptors::raise(), config.max_connections.map(Into::into));
        let places = Places::new(connections);
        let shared = || (Arc::clone(&app.metrics), Arc::clone(&places));
        let (updater, health) = (Arc::clone(&app.updater), app.health.clone());
        let events = admin.events.clone();
        let (stop_accepting, drain) = watch::channel(false);
        let listener = Listener::new(public, edge, router::router(app.clone()), shared());
        let ticks = listener.ticks();
        let mut listeners = vec![tokio::spawn(listener.run(drain.clone(), config.drain_timeout))];
        let grpc_listen = grpc.as_ref().map(|(_, address)| *address);
        if let Some((socket, _)) = grpc {
            let services = grpc::router(app.clone(), edge.keys.clone(), drain.clone()).await?;
            let listener = Listener::grpc(socket, edge, services, shared());
            listeners.push(tokio::spawn(listener.run(drain.clone(), config.drain_timeout)));
        }
        let admin_router = admin::router(admin);
        if let Some((socket, token)) = admin_tcp {
            let health = router::health(app.clone());
            let router = admin::guarded(admin_router.clone(), token, health);
            // Its calls end when updates do, at the beginning of the drain.
            let own = (Arc::clone(&app.metrics), Places::new(admin::CONNECTIONS_MAX));
            let listener = Listener::new(socket, &Edge::open(), router, own);
            tokio::spawn(listener.run(drain, config.drain_timeout));
        }
        let admin = tokio::spawn(admin_socket.serve(admin_router));
        Ok(Self {
            listen,
            grpc_listen,
            updater,
            events,
            health,
            stop_accepting,
            ticks,
            listeners,
            admin,
        })
    }

    /// Waits until every worker has been ready once.
    async fn warm_up(mut self) -> Result<Self, Failure> {
        let settled = |health: &Health| health.warmed_up || health.fatal.is_some();
        let health = self.health.wait_for(settled).await.map(|health| health.clone());
        match health.map(|health| health.fatal) {
            Ok(None) => Ok(self),
            Ok(Some(fatal)) => Err(failure(fatal)),
            Err(_) => Err(Failure::internal("the dispatcher ended")),
        }
    }

    /// Reloads when asked, until it is to stop or no worker is left.
    async fn serve(&mut self, edge: &Edge, signals: &mut Signals) -> Result<ExitStatus, Failure> {
        loop {
            let fatal = self.health.wait_for(|health| health.fatal.is_some());
            tokio::select! {
                health = fatal => {
                    let fatal = health.ok().and_then(|health| health.fatal.clone());
                    return Err(fatal.map_or_else(|| Failure::internal("the dispatcher ended"), failure));
                }
                request = signals.next() => match request {
                    Request::Stop => return Ok(ExitStatus::Fine),
                    Request::Reload => {
                        let updater = Arc::clone(&self.updater);
                        tokio::select! {
                            () = reload(edge, &updater) => {}
                            () = signals.stop() => return Ok(ExitStatus::Fine),
                        }
                    }
                }
            }
        }
    }

    /// Answers what has been accepted, then ends the workers.
    async fn drain(mut self, timeout: Duration) {
        tracing::info!("draining");
        self.updater.stop();
        self.stop_accepting.send_replace(true);
        // They end by themselves after the drain time at the latest.
        for listener in self.listeners {
            let _ = listener.await;
        }
        self.admin.abort();
        // The socket's name goes before the workers, who would otherwise see to it.
        let _ = (&mut self.admin).await;
        let _ = self.events.send(Event::Drain).await;
        let stopped = self.health.wait_for(|health| health.stopped || health.fatal.is_some());
        if time::timeout(timeout, stopped).await.is_err() {
            tracing::error!("workers did not stop");
        }
        tracing::info!("stopped");
    }

    /// Tells systemd that the request path works, as long as it does: the accept loop turns, the
    /// dispatcher answers, and a worker gives a sign of life.
    fn watchdog(&self) {
        let Some(interval) = systemd::watchdog_interval() else { return };
        let (events, ticks) = (self.events.clone(), Arc::clone(&self.ticks));
        tokio::spawn(async move {
            let mut last = ticks.load(Ordering::Relaxed);
            let period = interval / 3;
            loop {
                let start = Instant::now();
                let (reply, alive) = oneshot::channel();
                if events.send(Event::ProbeAsked(reply)).await.is_err() {
                    return;
                }
                let alive = matches!(time::timeout(period, alive).await, Ok(Ok(())));
                time::sleep(period.saturating_sub(start.elapsed())).await;
                let now = ticks.load(Ordering::Relaxed);
                if alive && now != last {
                    systemd::alive();
                }
                last = now;
            }
        });
    }
}

/// What requests are counted by.
fn templates(config: &Config) -> Vec<String> {
    let mut templates = router::templates();
    if config.grpc_listen.is_some() {
        templates.extend(grpc::templates());
    }
    templates
}

/// Brings every model that is loaded at start to a generation.
async fn restore(means: &update::Means) -> Result<Updater, Failure> {
    let updater = Updater::new(means)
        .map_err(|error| Failure::configuration(format!("--state-dir: {error}")))?;
    updater.restore().await.map_err(|(model, refusal)| {
        Failure::configuration(format!("--model {model}: {refusal}"))
    })?;
    Ok(updater)
}

fn failure((status, message): (ExitStatus, String)) -> Failure {
    match status {
        ExitStatus::Configuration => Failure::configuration(message),
        _ => Failure::unavailable(message),
    }
}

async fn reload(edge: &Edge, updater: &Updater) {
    systemd::reloading();
    // First, since it is quick and a key that is taken back should be so at once.
    let mut refused = edge.reload().await;
    let models = updater.update_all().await;
    refused.extend(models.into_iter().map(|(model, refusal)| format!("{model}: {refusal}")));
    // Also a reload that was refused is over, and the service serves.
    match refused.is_empty() {
        true => systemd::ready("serving"),
        false => systemd::ready(&format!("serving; reload refused: {}", refused.join("; "))),
    }
}

fn workers(
    config: &Config,
    executable: &WorkerExecutable,
    models: usize,
    events: &mpsc::Sender<Event>,
) -> Result<Vec<Worker>, Failure> {
    let cpus = usable_cpus()?;
    let count = config.workers.map_or(cpus.len(), Into::into);
    let mut workers = Vec::with_capacity(count);
    for id in 0..count {
        let cpu = cpus[id % cpus.len()];
        let keeper = Keeper::spawn(id, cpu, executable.clone(), events.clone(), Event::Kept)
            .map_err(|error| Failure::internal(format!("a thread: {error}")))?;
        workers.push(Worker::new(keeper, cpu, models, Instant::now()));
    }
    // The others are idle when a request is alone; one worker that they help is enough.
    workers[0].helper_cpus =
        cpus.iter().copied().take(count.min(config.alone_cpus)).skip(1).collect();
    Ok(workers)
}

/// The CPUs that this process may use.
fn usable_cpus() -> Result<Vec<u16>, Failure> {
    let set = sched_getaffinity(Pid::from_raw(0))
        .map_err(|error| Failure::internal(format!("the CPUs of this process: {error}")))?;
    let usable = |&cpu: &usize| set.is_set(cpu).unwrap_or(false);
    let cpus = (0..CpuSet::count()).filter(usable).filter_map(|cpu| u16::try_from(cpu).ok());
    let cpus: Vec<u16> = cpus.collect();
    if cpus.is_empty() { Err(Failure::internal("this process may use no CPU")) } else { Ok(cpus) }
}
