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
use tokio::sync::{Semaphore, mpsc, watch};

use super::Server;
use crate::{
    admin::{self, Admin},
    api::{
        grpc,
        router::{self, App},
    },
    config::Config,
    process::{descriptors, inherited::Inherited},
    transport::{edge::Edge, listener::Listener, places::Places, sockets::Sockets},
};
use onnxd_engine::{
    dispatch::{
        Backlog, Event,
        dispatcher::{self, Dispatcher, EVENTS_MAX},
        gather::{Dispatch, Limits},
        worker::Worker,
        workers::WorkerRequests,
    },
    models::{
        machine::Times,
        registry::Registry,
        store::Store,
        update::{
            self, LOAD_AHEAD_TIMEOUT, RestoreError, Updater, background::Background,
            checker::Checker, coordinator::Alone,
        },
    },
    pool::{executable::WorkerExecutable, keeper::Keeper, state::WorkerState},
    tasks::EssentialTasks,
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
        tasks: &EssentialTasks,
    ) -> Result<Self, Failure> {
        let store =
            Arc::new(Store::open(&config.state_dir, config.retention, inherited.lock.take())?);
        let (binary, library) = (&config.worker_binary, &config.onnxruntime);
        let executable = WorkerExecutable::open(binary, library, config.sandbox)
            .map_err(|error| Failure::configuration(format!("--worker-binary: {error}")))?;
        let page = ControlPage::create()
            .map_err(|error| Failure::internal(format!("the control page: {error}")))?;
        let metrics = metrics(config);
        let registry = Arc::new(Registry::new(&config.models, page, Arc::clone(&metrics)));
        let (events, incoming) = mpsc::channel(EVENTS_MAX);
        // Bound before anything that takes long, so that a wrong address is known at once.
        let sockets = Sockets::bind(config, inherited).await?;
        let means = update::Means {
            store: Arc::clone(&store),
            registry: Arc::clone(&registry),
            checker: Checker::new(executable.clone(), config.check, tasks)?,
            metrics: Arc::clone(&metrics),
            times: Times { load_ahead: LOAD_AHEAD_TIMEOUT, probation: config.probation },
            request_timeout: config.request_timeout,
            workers: Arc::new(WorkerRequests::new(events.clone())),
            coordinator: Arc::new(Alone),
            background: background.clone(),
            tasks: tasks.clone(),
        };
        let updater = Arc::new(restore(&means).await?);
        let welcome = Welcome {
            onnxruntime: config.onnxruntime.clone(),
            state_dir: config.state_dir.clone(),
            models: registry.slots(),
            admin_socket: sockets.admin.name(),
            helper_cpus: Vec::new(),
        };
        let workers = workers(config, &executable, registry.models().len(), (&events, tasks))?;
        let worker_count = workers.len();
        let backlog = Arc::new(Backlog::default());
        let means = dispatcher::Means {
            registry: Arc::clone(&registry),
            metrics: Arc::clone(&metrics),
            supervision: config.supervision,
            welcome,
            lines: updater.handles(),
            events: events.clone(),
            backlog: Arc::clone(&backlog),
            worker_memory_bytes: config.worker_memory_bytes,
        };
        let (dispatcher, health) = Dispatcher::new(means, workers);
        tasks.spawn("dispatcher", dispatcher.run(incoming));

        let dispatch = Dispatch::new(
            events.clone(),
            Arc::clone(&metrics),
            Limits { items: config.queue_limit, timeout: config.request_timeout },
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
        let server = Self::listen(config, edge, sockets, (app, admin, tasks.clone())).await?;
        // Requests wait until workers are ready, except where a predecessor still answers them.
        server.open.send_replace(!inherited.succeeds());
        Ok(server)
    }

    /// Serves what is bound.
    async fn listen(
        config: &Config,
        edge: &Edge,
        sockets: Sockets,
        (app, admin, tasks): (App, Admin, EssentialTasks),
    ) -> Result<Self, Failure> {
        let for_a_successor = sockets
            .for_a_successor()
            .map_err(|error| Failure::internal(format!("a second descriptor: {error}")))?;
        let Sockets { public, listen, grpc, admin_tcp, admin: admin_socket, .. } = sockets;
        let connections =
            descriptors::connections(descriptors::raise(), config.max_connections.map(Into::into));
        let places = Places::new(connections);
        let shared = || (Arc::clone(&app.metrics), Arc::clone(&places));
        let (updater, health) = (Arc::clone(&app.updater), app.health.clone());
        let (events, store) = (admin.events.clone(), Arc::clone(&admin.store));
        let (stop_accepting, drain) = watch::channel(false);
        let (open, opened) = watch::channel(false);
        let listener = Listener::new(public, edge, router::router(app.clone()), shared());
        let ticks = listener.ticks();
        let run = |name: &str, listener: Listener| {
            let (mut opened, drain, timeout) =
                (opened.clone(), drain.clone(), config.drain_timeout);
            tasks.spawn(name, async move {
                // An error means that there is nothing left to open for.
                let _ = opened.wait_for(|opened| *opened).await;
                listener.run(drain, timeout).await;
            })
        };
        let mut listeners = vec![run("HTTP listener", listener)];
        let grpc_listen = grpc.as_ref().map(|(_, address)| *address);
        if let Some((socket, _)) = grpc {
            let services =
                grpc::router(app.clone(), edge.keys.clone(), drain.clone(), &tasks).await?;
            let listener = Listener::grpc(socket, edge, services, shared());
            listeners.push(run("gRPC listener", listener));
        }
        let admin_router = admin::router(admin);
        if let Some((socket, token)) = admin_tcp {
            let health = router::health(app.clone());
            let router = admin::guarded(admin_router.clone(), token, health);
            // Its calls end when updates do, at the beginning of the drain.
            let own = (Arc::clone(&app.metrics), Places::new(admin::CONNECTIONS_MAX));
            let listener = Listener::new(socket, &Edge::open(), router, own);
            run("admin listener", listener);
        }
        let admin = tasks.spawn("admin socket", admin_socket.serve(admin_router));
        Ok(Self {
            listen,
            grpc_listen,
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
            tasks,
        })
    }
}

/// The metrics, with a counter for each route.
fn metrics(config: &Config) -> Arc<Metrics> {
    let mut templates = router::templates();
    if config.grpc_listen.is_some() {
        templates.extend(grpc::templates());
    }
    let metrics = Metrics::new(&templates);
    metrics.sandbox.store(config.sandbox, Ordering::Relaxed);
    Arc::new(metrics)
}

/// Brings every model that is loaded at start to a generation.
async fn restore(means: &update::Means) -> Result<Updater, Failure> {
    let updater = Updater::new(means)
        .map_err(|error| Failure::configuration(format!("--state-dir: {error}")))?;
    updater.restore().await.map_err(|error| match error {
        RestoreError::Refused { .. } => Failure::configuration(error.to_string()),
        RestoreError::Ended { .. } => Failure::internal(error.to_string()),
    })?;
    Ok(updater)
}

fn workers(
    config: &Config,
    executable: &WorkerExecutable,
    models: usize,
    (events, tasks): (&mpsc::Sender<Event>, &EssentialTasks),
) -> Result<Vec<Worker>, Failure> {
    let cpus = usable_cpus()?;
    let count = config.workers.map_or(cpus.len(), Into::into);
    let mut workers = Vec::with_capacity(count);
    for id in 0..count {
        let cpu = cpus[id % cpus.len()];
        let guard = tasks.guard(format!("monitor of worker {id}"));
        let event = move |worker, epoch, report| {
            // It lives as long as the thread.
            let _ = &guard;
            Event::Kept(worker, epoch, report)
        };
        let keeper = Keeper::spawn(id, cpu, executable.clone(), events.clone(), event)
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
