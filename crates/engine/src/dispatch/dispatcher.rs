//! The one task that owns the queue and the workers. Everything that happens comes in as an
//! [`Event`]; nothing here waits for anything else, so no worker and no client can hold it up.

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use onnxd_proto::{
    control_page::Slot,
    generation::Generation,
    wire::message::{ToWorker, Welcome},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

use crate::dispatch::{
    Answered, Backlog, Event, Item, ItemError,
    alone::Alone,
    estimate::{Estimate, Size, Work},
    health::Health,
    loads::Unload,
    poison::Poison,
    recycle::Recycling,
    scheduler::{Age, ItemId, Scheduler},
    worker::Worker,
};
use crate::{
    models::{machine::events::WorkerEvent, registry::Registry, update::UpdateHandle},
    pool::{
        Epoch, Supervision, WorkerId,
        keeper::{Ended, Report},
        link::{Incoming, Link},
        restarts::{self, Budget},
    },
};
use onnxd_telemetry::metrics::Metrics;

/// Events that may wait. Handlers and links wait in turn when the dispatcher is behind.
pub const EVENTS_MAX: usize = 1024;
/// Events that are taken in before what waits is handed out.
const EVENTS_AT_ONCE: usize = 64;
/// How often a worker that could not load is asked to; its own back-off decides whether it does.
const RETRY_LOADS: Duration = Duration::from_secs(1);
/// How long workers may take to end by themselves when the supervisor stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of the task.
#[derive(Debug)]
pub struct Dispatcher {
    pub(super) registry: Arc<Registry>,
    pub(super) supervision: Supervision,
    /// Of all workers.
    pub(super) restarts: Budget,
    pub(super) metrics: Arc<Metrics>,
    pub(super) welcome: Welcome,
    pub(super) workers: Vec<Worker>,
    pub(super) warmed_up: Vec<bool>,
    pub(super) scheduler: Scheduler,
    /// By slot.
    pub(super) estimates: Vec<Estimate>,
    pub(super) alone: Alone,
    pub(super) poison: Poison,
    pub(super) recycling: Recycling,
    pub(super) items: HashMap<ItemId, Accepted>,
    last_id: u64,
    /// Ages of items count from here.
    pub(super) started: Instant,
    probes: Vec<oneshot::Sender<()>>,
    draining: Option<Instant>,
    retry_loads_at: Option<Instant>,
    events: mpsc::Sender<Event>,
    lines: Vec<UpdateHandle>,
    pub(super) unloads: Vec<Unload>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) health: watch::Sender<Health>,
}

/// An item that waits or is computed.
#[derive(Debug)]
pub(super) struct Accepted {
    pub item: Item,
    pub age: Age,
    pub work: Work,
    pub size: Size,
    /// What was committed when it came: nothing older may answer it while something newer can.
    pub floor: Generation,
    /// How long it waited for a worker, once it has one.
    pub waited: Duration,
    /// Workers that ended while they computed it.
    pub deaths: u32,
    /// Those of them that nobody else ended.
    pub faults: u32,
}

/// What a dispatcher works with.
#[derive(Debug)]
pub struct Means {
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    pub supervision: Supervision,
    /// What workers are told at their start.
    pub welcome: Welcome,
    /// The lines of updates, which hear what workers load and how they end.
    pub lines: Vec<UpdateHandle>,
    pub events: mpsc::Sender<Event>,
    /// Where it says how much waits.
    pub backlog: Arc<Backlog>,
    /// Workers that use more are recycled.
    pub worker_memory_bytes: Option<u64>,
}

impl Dispatcher {
    /// A dispatcher for workers that are not started yet; [`Dispatcher::run`] starts them.
    pub fn new(means: Means, workers: Vec<Worker>) -> (Self, watch::Receiver<Health>) {
        let Means {
            registry,
            metrics,
            supervision,
            welcome,
            lines,
            events,
            backlog,
            worker_memory_bytes,
        } = means;
        let (health, receiver) = watch::channel(Health::default());
        let dispatcher = Self {
            estimates: vec![Estimate::default(); registry.models().len()],
            alone: Alone::default(),
            poison: Poison::default(),
            recycling: Recycling::new(worker_memory_bytes, workers.len(), Instant::now()),
            started: Instant::now(),
            registry,
            supervision,
            restarts: Budget::of_all(supervision.restarts_max, workers.len()),
            metrics,
            welcome,
            warmed_up: vec![false; workers.len()],
            workers,
            scheduler: Scheduler::default(),
            items: HashMap::new(),
            last_id: 0,
            probes: Vec::new(),
            draining: None,
            retry_loads_at: None,
            events,
            lines,
            unloads: Vec::new(),
            backlog,
            health,
        };
        (dispatcher, receiver)
    }

    /// Works until every worker has stopped.
    pub async fn run(mut self, mut incoming: mpsc::Receiver<Event>) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            self.start_due(Instant::now());
            self.retry_loads(Instant::now());
            self.end_hangs(Instant::now());
            self.end_unread(Instant::now());
            self.recycle(Instant::now());
            self.publish_health();
            if self.health.borrow().stopped {
                return;
            }
            let next = self.next_deadline();
            tokio::select! {
                count = incoming.recv_many(&mut events, EVENTS_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    events.drain(..).for_each(|event| self.handle(event));
                    self.hand_out();
                }
                () = sleep_until(next) => {}
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let starts = self.workers.iter().filter_map(|worker| worker.state.start_at());
        let ends =
            self.next_overdue().into_iter().chain(self.next_unread()).chain(self.next_look());
        starts.chain(self.draining).chain(self.retry_loads_at).chain(ends).min()
    }

    /// A worker that could not load what is committed gets no work, and would not try again.
    fn retry_loads(&mut self, now: Instant) {
        if self.retry_loads_at.is_some_and(|at| at <= now) {
            self.retry_loads_at = None;
            self.ping();
        }
        let failed = |worker: &Worker| worker.state.serves() && worker.has_failed_to_load();
        if self.retry_loads_at.is_none() && self.workers.iter().any(failed) {
            self.retry_loads_at = Some(now + RETRY_LOADS);
        }
    }

    fn start_due(&mut self, now: Instant) {
        restarts::hurry(self.workers.iter_mut().map(|worker| &mut worker.state));
        for worker in &mut self.workers {
            if !worker.state.start_due(now) {
                continue;
            }
            match self.registry.page().read_only() {
                Ok(page) => {
                    worker.epoch += 1;
                    worker.keeper.start(worker.epoch, page);
                }
                Err(error) => {
                    tracing::error!(%error, "a worker cannot be given the control page");
                    worker.ended(now, &Ended::not_started(&error), 0.0);
                }
            }
        }
        if self.draining.is_some_and(|deadline| deadline <= now) {
            self.draining = None;
            self.workers.iter_mut().for_each(Worker::kill);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Submitted(items) => self.submit(items),
            Event::Kept(id, epoch, report) => self.kept(id, epoch, report),
            Event::Arrived(id, epoch, incoming) => {
                // What an older process was to answer has been given to another.
                if self.workers[id].epoch == epoch && self.workers[id].ending.listens() {
                    self.arrived(id, incoming);
                }
            }
            Event::StatusAsked(reply) => {
                self.metrics.see_items(self.items.len());
                let status = (0..).zip(&self.workers).map(|(id, worker)| worker.status(id));
                // The asker may have gone.
                let _ = reply.send(status.collect());
            }
            Event::WorkersAsked(reply) => {
                let serves = |(_, worker): &(WorkerId, &Worker)| worker.state.serves();
                let ids = (0..).zip(&self.workers).filter(serves).map(|(id, _)| id);
                let _ = reply.send(ids.collect());
            }
            Event::LoadAhead(id, slot, version) => self.load_ahead(id, slot, version),
            Event::Forget(slot) => self.forget(slot),
            Event::Unload(slot, reply) => self.unload(slot, reply),
            Event::Committed => self.ping(),
            Event::ProbeAsked(reply) => {
                self.probes.retain(|probe| !probe.is_closed());
                self.probes.push(reply);
                self.ping();
            }
            Event::Drain => self.drain(),
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn tell(&self, slot: Slot, event: WorkerEvent) {
        if let Some(line) = self.lines.get(usize::from(slot)) {
            line.tell(event);
        }
    }

    fn kept(&mut self, id: WorkerId, epoch: Epoch, report: Report) {
        let worker = &mut self.workers[id];
        match report {
            Report::Started(process, socket) => {
                tracing::info!(worker = id, pid = process.pid, "worker started");
                worker.started(process, Instant::now());
                let event = move |incoming| Event::Arrived(id, epoch, incoming);
                match Link::open(socket, self.events.clone(), event) {
                    Ok(link) => worker.connected(link),
                    Err(error) => {
                        tracing::error!(%error, "a worker's socket cannot be used");
                        worker.kill();
                    }
                }
            }
            Report::Stopped => worker.stopped(Instant::now()),
            Report::Continued => worker.continued(),
            Report::Ended(ended) => self.process_ended(id, ended),
        }
    }

    fn arrived(&mut self, id: WorkerId, incoming: io::Result<Incoming>) {
        let incoming = match incoming {
            Ok(incoming) => incoming,
            Err(error) => {
                use io::ErrorKind::{ConnectionReset, UnexpectedEof};
                if ![UnexpectedEof, ConnectionReset].contains(&error.kind()) {
                    tracing::error!(worker = id, %error, "a worker's socket failed");
                    self.give_back(id, true);
                }
                // What it had is given back when the way it ended says whose fault that was.
                return self.deafen(id);
            }
        };
        let worker = &mut self.workers[id];
        worker.pinged = None;
        if std::mem::take(&mut worker.owed_ping) {
            self.ping();
        }
        for probe in self.probes.drain(..) {
            // The asker may have gone.
            let _ = probe.send(());
        }
        if let Err(reason) = self.message(id, incoming) {
            tracing::error!(worker = id, reason, "a worker broke the protocol");
            self.give_back(id, true);
            self.deafen(id);
        }
    }

    /// Asks every serving worker to refresh and give a sign of life.
    fn ping(&mut self) {
        let now = Instant::now();
        for worker in self.workers.iter_mut().filter(|worker| worker.state.serves()) {
            if worker.pinged.is_some() {
                // It may have read the last one before what this one is about.
                worker.owed_ping = true;
            } else if worker.send(0, &ToWorker::Ping, Vec::new()) {
                worker.pinged = Some(now);
            }
        }
    }

    fn drain(&mut self) {
        self.draining = Some(Instant::now() + STOP_TIMEOUT);
        for worker in &mut self.workers {
            worker.state.drain();
            worker.hang_up();
        }
        self.reject_all();
    }
}

pub(super) fn answer(item: Item, outcome: Result<Answered, ItemError>) {
    // The channel holds one answer for each item of the request; the client may have gone.
    let _ = item.reply.try_send((item.index, outcome));
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
