//! How everything that runs is put together, in the order in which it has to be.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use onnxd_proto::{control_page::ControlPage, wire::message::Welcome};
use tokio::sync::{mpsc, watch};

use super::{Server, sockets::Sockets};
use crate::{
    admin::{self, Admin},
    api::{app::App, grpc, router},
    config::Config,
    process::{descriptors, inherited::Inherited},
    transport::{
        edge::Edge,
        listener::{Listener, Routes},
        places::Places,
    },
};
use onnxd_engine::{
    Engine,
    dispatch::{
        Backlog, Event,
        dispatcher::{self, Dispatcher, EVENTS_MAX},
        gather::{Dispatch, Limits},
        worker::Worker,
    },
    engine::{MemoryBudget, Parts},
    models::{
        background::Background,
        checker::Checker,
        line::Times,
        registry::Registry,
        store::Store,
        update::{self, LOAD_AHEAD_TIMEOUT, Updater},
    },
    pool::{executable::WorkerExecutable, keeper::Keeper, state::WorkerState},
};
use onnxd_proto::exit::Failure;
use onnxd_telemetry::metrics::Metrics;

impl Server {
    /// Locks the state, binds, brings every model to a generation, and starts the workers.
    pub(super) async fn start(
        config: &Config,
        edge: &Edge,
        background: &Background,
        inherited: &mut Inherited,
    ) -> Result<Self, Failure> {
        let store =
            Arc::new(Store::open(&config.state_dir, config.retention, inherited.lock.take())?);
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
        let sockets = Sockets::bind(config, inherited).await?;
        let means = update::Means {
            store: Arc::clone(&store),
            registry: Arc::clone(&registry),
            checker: Checker::new(executable.clone(), config.check)?,
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
            supervision: config.supervision,
            welcome,
            lines: updater.lines(),
            events: events.clone(),
            backlog: Arc::clone(&backlog),
            worker_memory_bytes: config.worker_memory_bytes,
        };
        let (dispatcher, health) = Dispatcher::new(means, workers);
        tokio::spawn(dispatcher.run(incoming));

        let limits = Limits { items: config.queue_limit, timeout: config.request_timeout };
        let models = registry.models().len();
        let dispatch = Dispatch::new(events.clone(), Arc::clone(&metrics), limits, backlog, models);
        let parts = Parts {
            registry: Arc::clone(&registry),
            dispatch,
            metrics: Arc::clone(&metrics),
            updater: Arc::clone(&updater),
            health,
            events: events.clone(),
            workers: worker_count,
        };
        let engine = Arc::new(Engine::new(parts, MemoryBudget::default()));
        let app = App { engine, client_batch: config.max_client_batch_size };
        let calls = Admin::calls();
        let admin = Admin { registry, updater, store, events, metrics, calls };
        let server = Self::listen(config, edge, sockets, (app, admin)).await?;
        // Requests wait until workers are ready, except where a predecessor still answers them.
        server.open.send_replace(!inherited.succeeds());
        Ok(server)
    }

    /// Serves what is bound.
    async fn listen(
        config: &Config,
        edge: &Edge,
        sockets: Sockets,
        (app, admin): (App, Admin),
    ) -> Result<Self, Failure> {
        let for_a_successor = sockets
            .for_a_successor()
            .map_err(|error| Failure::internal(format!("a second descriptor: {error}")))?;
        let Sockets { public, listen, grpc, admin_tcp, admin: admin_socket, .. } = sockets;
        let connections =
            descriptors::connections(descriptors::raise(), config.max_connections.map(Into::into));
        let places = Places::new(connections);
        let metrics = Arc::clone(app.engine.metrics());
        let shared = || (Arc::clone(&metrics), Arc::clone(&places));
        let (updater, health) = (Arc::clone(&admin.updater), app.engine.health());
        let (events, store) = (admin.events.clone(), Arc::clone(&admin.store));
        let (stop_accepting, drain) = watch::channel(false);
        let (open, opened) = watch::channel(false);
        let listener = Listener::new(public, edge, router::routes(app.clone()), shared());
        let ticks = listener.ticks();
        let run = |listener: Listener| {
            let (mut opened, drain, timeout) =
                (opened.clone(), drain.clone(), config.drain_timeout);
            tokio::spawn(async move {
                // An error means that there is nothing left to open for.
                let _ = opened.wait_for(|opened| *opened).await;
                listener.run(drain, timeout).await;
            })
        };
        let mut listeners = vec![run(listener)];
        let grpc_listen = grpc.as_ref().map(|(_, address)| *address);
        if let Some((socket, _)) = grpc {
            let services = grpc::router(app.clone(), edge.keys.clone(), drain.clone()).await?;
            let listener = Listener::http2(socket, edge, (services, grpc::may_rest), shared());
            listeners.push(run(listener));
        }
        let admin_router = admin::router(admin);
        if let Some((socket, token)) = admin_tcp {
            let health = router::health(app.clone());
            let router = admin::guarded(admin_router.clone(), token, health);
            // Its calls end when updates do, at the beginning of the drain.
            let own = (Arc::clone(&metrics), Places::new(admin::CONNECTIONS_MAX));
            let routes = Routes { router, shapes: router::shapes() };
            let listener = Listener::new(socket, &Edge::open(), routes, own);
            run(listener);
        }
        let admin = tokio::spawn(admin_socket.serve(admin_router));
        Ok(Self {
            listen,
            grpc_listen,
            engine: app.engine,
            updater,
            store,
            open,
            for_a_successor,
            events,
            health,
            stop_accepting,
            ticks,
            listeners,
            admin,
        })
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
        let state = WorkerState::new(Instant::now(), config.supervision.restarts_max);
        workers.push(Worker::new(keeper, cpu, models, state));
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
