//! `onnxd serve`, from the configuration to the exit code, in the order in which it happens.

mod sockets;
mod start;
mod succession;

use std::{
    os::fd::OwnedFd,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use self::succession::{Attempt, Successor};
use onnxd_proto::exit::ExitStatus;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time,
};

use crate::{
    config::{Config, Origins, ServeArguments},
    process::{
        confinement,
        inherited::Inherited,
        signals::{Request, Signals},
        systemd,
    },
    transport::edge::Edge,
};
use onnxd_engine::{
    Engine,
    dispatch::{Event, health::Health},
    models::{
        store::Store,
        update::{Updater, background::Background},
    },
    tasks::EssentialTasks,
};
use onnxd_proto::exit::Failure;
use onnxd_telemetry::log;

/// How long an update that is given up may take to remove what it made.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// Workers end by themselves or are killed by then.
const WORKERS_END_WITHIN: Duration = Duration::from_secs(5);

/// Runs the supervisor until it is told to stop.
///
/// # Errors
/// Why it could not start, or had to stop.
pub(crate) fn main(
    arguments: ServeArguments,
    origins: &mut Origins,
) -> Result<ExitStatus, Failure> {
    let inherited = Inherited::take()?;
    let settings = arguments.with_file(origins)?;
    let format = settings.log_format.as_deref().filter(|format| !format.is_empty());
    log::init(format).map_err(|error| {
        Failure::configuration(match error {
            log::Error::Format(word) => {
                format!("--log-format: expected text or json, got {word:?}")
            }
            other => other.to_string(),
        })
    })?;
    if settings.alone_cpus.is_some() {
        tracing::warn!("{} is deprecated, use --idle-cpus", origins.name("alone-cpus"));
    }
    let check_only = settings.check_config;
    let config = Config::load(settings)?;
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
    let result = runtime.block_on(run(config, edge, inherited));
    // Nothing that matters runs any more; what is dropped here removes its files.
    runtime.shutdown_timeout(CLEAN_UP_TIMEOUT);
    result
}

/// What `--check-config` looks at beyond what loading the configuration does.
fn check(config: &Config) -> Result<ExitStatus, Failure> {
    for model in &config.models {
        if let Some(path) = model.uri.directory().filter(|path| !path.is_dir()) {
            let path = path.display();
            let message = format!("--model {}: the directory {path} is not there", model.name);
            return Err(Failure::configuration(message));
        }
    }
    crate::cli::say("the configuration is fine");
    Ok(ExitStatus::Fine)
}

async fn run(config: Config, edge: Edge, inherited: Inherited) -> Result<ExitStatus, Failure> {
    let background = Background::default();
    let outcome = serve(&config, &edge, &background, inherited).await;
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
    mut inherited: Inherited,
) -> Result<ExitStatus, Failure> {
    let mut signals = Signals::install().map_err(|error| Failure::internal(error.to_string()))?;
    let tasks = EssentialTasks::default();
    let server = tokio::select! {
        server = Server::start(config, edge, background, &mut inherited, &tasks) => server?,
        failure = ended(&tasks) => return Err(failure),
        () = signals.stop() => return Ok(ExitStatus::Fine),
    };
    let server = tokio::select! {
        warm = server.warm_up() => warm?,
        failure = ended(&tasks) => return Err(failure),
        () = signals.stop() => return Ok(ExitStatus::Fine),
    };
    if let Some(predecessor) = inherited.handover.take() {
        tokio::select! {
            taken = server.take_over(config, predecessor) => taken?,
            failure = ended(&tasks) => return Err(failure),
            () = signals.stop() => return Ok(ExitStatus::Fine),
        }
    }
    systemd::ready("serving");
    tracing::info!(
        listen = %server.listen,
        grpc_listen = server.grpc_listen.map(tracing::field::display),
        admin_socket = %config.admin_socket.display(),
        "ready"
    );
    let watchdog = server.watchdog();
    let outcome = server.serve(config, edge, background, &mut signals).await;
    if let Some(watchdog) = watchdog {
        watchdog.abort();
    }
    let successor = match &outcome {
        Ok(End::Succeeded(successor)) => Some(successor),
        _ => {
            systemd::stopping();
            None
        }
    };
    let mut drain = pin!(server.drain(successor.is_some()));
    loop {
        tokio::select! {
            () = drain.as_mut() => break,
            request = signals.next() => match (request, successor) {
                (Request::Stop, _) => {
                    tracing::warn!("told to stop twice: ending at once");
                    break;
                }
                (Request::Reload, Some(successor)) => successor.hang_up(),
                (Request::Reload | Request::Succeed, _) => {}
            }
        }
    }
    outcome.map(|_| ExitStatus::Fine)
}

/// Why it serves no longer.
enum End {
    /// It was told to stop.
    Stopped,
    /// Another process serves.
    Succeeded(Successor),
}

/// Everything that runs.
#[derive(Debug)]
struct Server {
    listen: std::net::SocketAddr,
    grpc_listen: Option<std::net::SocketAddr>,
    engine: Arc<Engine>,
    updater: Arc<Updater>,
    store: Arc<Store>,
    /// Begins to accept.
    open: watch::Sender<bool>,
    for_a_successor: Vec<(String, OwnedFd)>,
    events: mpsc::Sender<Event>,
    health: watch::Receiver<Health>,
    stop_accepting: watch::Sender<bool>,
    ticks: Arc<AtomicU64>,
    listeners: Vec<JoinHandle<()>>,
    admin: JoinHandle<()>,
    tasks: EssentialTasks,
}

impl Server {
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

    /// Reloads when asked, until it is to stop, no worker is left, or an essential task ends.
    async fn serve(
        &self,
        config: &Config,
        edge: &Edge,
        background: &Background,
        signals: &mut Signals,
    ) -> Result<End, Failure> {
        let mut reload_now = false;
        let mut health = self.health.clone();
        loop {
            if std::mem::take(&mut reload_now) {
                tokio::select! {
                    () = reload(edge, &self.updater) => {}
                    failure = ended(&self.tasks) => return Err(failure),
                    () = signals.stop() => return Ok(End::Stopped),
                }
            }
            let fatal = health.wait_for(|health| health.fatal.is_some());
            tokio::select! {
                health = fatal => {
                    let fatal = health.ok().and_then(|health| health.fatal.clone());
                    return Err(fatal.map_or_else(|| Failure::internal("the dispatcher ended"), failure));
                }
                failure = ended(&self.tasks) => return Err(failure),
                request = signals.next() => match request {
                    Request::Stop => return Ok(End::Stopped),
                    Request::Reload => reload_now = true,
                    Request::Succeed => match self.succeed(config, background, signals).await {
                        Attempt::Taken(successor) => return Ok(End::Succeeded(successor)),
                        Attempt::Failed { reload } => reload_now = reload,
                        Attempt::Stopped => return Ok(End::Stopped),
                    }
                }
            }
        }
    }

    /// Answers what has been accepted, then ends the workers.
    async fn drain(mut self, succeeded: bool) {
        tracing::info!("draining");
        self.tasks.stopping();
        if !succeeded {
            self.updater.stop();
        }
        // Nobody is to connect to sockets that no one accepts from.
        self.for_a_successor.clear();
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
        if time::timeout(WORKERS_END_WITHIN, stopped).await.is_err() {
            tracing::error!("workers did not stop");
        }
        tracing::info!("stopped");
    }

    /// Tells systemd that the request path works, as long as it does: the accept loop turns, the
    /// dispatcher answers, and a worker gives a sign of life.
    fn watchdog(&self) -> Option<JoinHandle<()>> {
        let interval = systemd::watchdog_interval()?;
        let (engine, ticks) = (Arc::clone(&self.engine), Arc::clone(&self.ticks));
        Some(self.tasks.spawn("watchdog", async move {
            let mut last = ticks.load(Ordering::Relaxed);
            let period = interval / 3;
            loop {
                let start = Instant::now();
                let Ok(alive) = engine.probe(period).await else { return };
                time::sleep(period.saturating_sub(start.elapsed())).await;
                let now = ticks.load(Ordering::Relaxed);
                if alive && now != last {
                    systemd::alive();
                }
                last = now;
            }
        }))
    }
}

/// Returns when an essential task has ended.
async fn ended(tasks: &EssentialTasks) -> Failure {
    Failure::internal(format!("internal error: a task ended unexpectedly: {}", tasks.ended().await))
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
