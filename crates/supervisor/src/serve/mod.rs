//! Runs `onnxd serve`: loads the configuration, starts the server ([`start`]), loads the models, acts on
//! signals, and drains.

mod check;
mod kept;
mod search;
mod sockets;
mod start;
mod starting;
mod stopping;
mod succession;
mod traces;
mod trials;
mod workers;

use std::{
    os::fd::OwnedFd,
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
    cli,
    config::{Config, Origins, ServeArguments, unknown_variables},
    process::{
        confinement,
        exporter::Exporter,
        inherited::Inherited,
        init::Reporter,
        signals::{Action, Signals},
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
use onnxd_search::Catalog;
use onnxd_telemetry::log;

/// How long an aborted update may take to remove its files.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the supervisor until it is stopped or a successor has taken over.
///
/// # Errors
/// It could not start, or had to stop.
pub(crate) fn main(
    arguments: ServeArguments,
    origins: &mut Origins,
) -> Result<ExitStatus, Failure> {
    let inherited = Inherited::take()?;
    let settings = arguments.with_file(origins)?;
    let format = settings.logging.log_format.as_deref().filter(|format| !format.is_empty());
    log::init(format).map_err(|error| {
        Failure::configuration(match error {
            log::Error::Format(word) => {
                format!("--log-format: expected text or json, got {word:?}")
            }
            other => other.to_string(),
        })
    })?;
    if settings.workers.alone_cpus.is_some() {
        tracing::warn!("{} is deprecated, use --idle-cpus", origins.name("alone-cpus"));
    }
    for warning in unknown_variables(&cli::command()) {
        tracing::warn!("{warning}");
    }
    if settings.other.check_config {
        check::check(settings, &inherited)?;
        cli::print_line("the configuration is valid");
        return Ok(ExitStatus::Success);
    }
    let (mut config, edge) = Config::load(settings)?;
    sockets::adopt(&mut config, &inherited)?;
    // Privileges are per thread, so drop them while there is only one.
    confinement::begin(config.sandbox);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("cannot start the async runtime: {error}")))?;
    let result = runtime.block_on(run(config, edge, inherited));
    // Only clean-up is left: dropping these tasks removes their files.
    runtime.shutdown_timeout(CLEAN_UP_TIMEOUT);
    result
}

async fn run(config: Config, edge: Edge, inherited: Inherited) -> Result<ExitStatus, Failure> {
    let background = Background::default();
    let outcome = serve(&config, &edge, &background, inherited).await;
    if time::timeout(CLEAN_UP_TIMEOUT, background.finish()).await.is_err() {
        tracing::error!("an update did not stop in time, the next start removes its files");
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
        () = signals.stop() => return Ok(ExitStatus::Success),
    };
    let is_successor = inherited.is_successor();
    let load = async {
        if is_successor {
            server.require_newest().await?;
        }
        server.restore().await?;
        server.warm_up().await
    };
    let is_loaded = tokio::select! {
        loaded = load => loaded.map(|()| true)?,
        never = starting::announce(server.updater.startup(), config.check.timeout), if !is_successor => match never {},
        failure = ended(&tasks) => return Err(failure),
        () = signals.stop() => match is_successor {
            // It does not accept yet.
            true => return Ok(ExitStatus::Success),
            false => false,
        }
    };
    if !is_loaded {
        // Models that were loaded already have answered requests.
        return server.stop(Ok(Exit::Stopped), config, &mut signals).await;
    }
    if let Some(predecessor) = inherited.handover.take() {
        tokio::select! {
            taken = server.take_over(config, predecessor) => taken?,
            failure = ended(&tasks) => return Err(failure),
            () = signals.stop() => return Ok(ExitStatus::Success),
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
    server.stop(outcome, config, &mut signals).await
}

/// Why the server stopped serving.
enum Exit {
    /// A signal stopped it.
    Stopped,
    /// A successor has taken over.
    HandedOver(Successor),
}

/// A running server.
#[derive(Debug)]
struct Server {
    listen: std::net::SocketAddr,
    grpc_listen: Option<std::net::SocketAddr>,
    engine: Arc<Engine>,
    updater: Arc<Updater>,
    store: Arc<Store>,
    /// Becomes true when the listeners may accept.
    open: watch::Sender<bool>,
    successor_descriptors: Vec<(String, OwnedFd)>,
    /// Whether systemd owns the admin socket.
    admin_is_passed: bool,
    events: mpsc::Sender<Event>,
    health: watch::Receiver<Health>,
    stop_accepting: watch::Sender<bool>,
    ticks: Arc<AtomicU64>,
    listeners: Vec<JoinHandle<()>>,
    admin: JoinHandle<()>,
    tasks: EssentialTasks,
    /// Sends traces to a collector, if that is on.
    exporter: Option<Exporter>,
    /// The collections of documents, unless search is off.
    collections: Option<Arc<Catalog>>,
    /// Reports successors to the first process of a container, if there is one.
    reporter: Option<Reporter>,
}

impl Server {
    /// Waits until every worker has been ready once.
    ///
    /// # Errors
    /// The workers cannot start.
    async fn warm_up(&self) -> Result<(), Failure> {
        let settled = |health: &Health| health.warmed_up || health.fatal.is_some();
        let mut health = self.health.clone();
        let health = health.wait_for(settled).await.map(|health| health.clone());
        match health.map(|health| health.fatal) {
            Ok(None) => Ok(()),
            Ok(Some(fatal)) => Err(failure(fatal)),
            Err(_) => Err(dispatcher_ended()),
        }
    }

    /// Acts on signals until one stops the server, a successor takes over, all workers have failed for good, or an
    /// essential task ends.
    async fn serve(
        &self,
        config: &Config,
        edge: &Edge,
        background: &Background,
        signals: &mut Signals,
    ) -> Result<Exit, Failure> {
        let mut reload_now = false;
        loop {
            if std::mem::take(&mut reload_now) {
                tokio::select! {
                    () = reload(edge, &self.updater) => {}
                    failure = ended(&self.tasks) => return Err(failure),
                    () = signals.stop() => return Ok(Exit::Stopped),
                }
            }
            tokio::select! {
                failure = self.failed() => return Err(failure),
                request = signals.next() => match request {
                    Action::Stop => return Ok(Exit::Stopped),
                    Action::Reload => reload_now = true,
                    Action::HandOver => match self.hand_over(config, background, signals).await {
                        Attempt::HandedOver(successor) => return Ok(Exit::HandedOver(successor)),
                        Attempt::Failed { reload } => reload_now = reload,
                        Attempt::Stopped => return Ok(Exit::Stopped),
                    }
                }
            }
        }
    }

    /// Notifies systemd's watchdog while the request path works: the accept loop runs, the dispatcher answers, and
    /// a worker responds.
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

/// Waits until an essential task ends, which is a failure.
async fn ended(tasks: &EssentialTasks) -> Failure {
    Failure::internal(format!("internal error: task ended unexpectedly: {}", tasks.ended().await))
}

fn dispatcher_ended() -> Failure {
    Failure::internal("internal error: the dispatcher ended unexpectedly")
}

fn failure((status, message): (ExitStatus, String)) -> Failure {
    match status {
        ExitStatus::Configuration => Failure::configuration(message),
        _ => Failure::unavailable(message),
    }
}

async fn reload(edge: &Edge, updater: &Updater) {
    systemd::reloading();
    // First, since it is quick, and a revoked key should stop working immediately.
    let mut refused = edge.reload().await;
    let models = updater.update_all().await;
    refused.extend(models.into_iter().map(|(model, refusal)| format!("{model}: {refusal}")));
    // systemd waits for this even if the reload was refused.
    match refused.is_empty() {
        true => systemd::ready("serving"),
        false => systemd::ready(&format!("serving; reload refused: {}", refused.join("; "))),
    }
}
