//! What the dispatcher owns. The behaviour files beside this one import it; it imports none of them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use onnxd_proto::{control_page::Slot, generation::Generation, wire::message::Welcome};
use tokio::sync::{mpsc, oneshot, watch};

use crate::dispatch::{
    actor::worker::Worker,
    backlog::Backlog,
    event::Event,
    health::Health,
    item::{Answered, Item, ItemError},
    policy::{
        estimate::{Estimate, Size, Work},
        idle_boost::IdleBoost,
        poison::Poison,
        recycling::Recycling,
        restarts::Budget,
        scheduler::{Age, ItemId, Scheduler},
    },
};
use crate::{
    models::{machine::events::WorkerEvent, registry::Registry, update::UpdateHandle},
    pool::{Supervision, WorkerId},
};
use onnxd_telemetry::metrics::Metrics;

/// Events that may wait. Handlers and links wait in turn when the dispatcher is behind.
pub const EVENTS_MAX: usize = 1024;
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
    pub(super) scheduler: Scheduler,
    /// By slot.
    pub(super) estimates: Vec<Estimate>,
    pub(super) idle_boost: IdleBoost,
    pub(super) poison: Poison,
    pub(super) recycling: Recycling,
    pub(super) items: HashMap<ItemId, Accepted>,
    last_id: u64,
    /// Ages of items count from here.
    pub(super) started: Instant,
    pub(super) probes: Vec<oneshot::Sender<()>>,
    pub(super) draining: Option<Instant>,
    pub(super) retry_loads_at: Option<Instant>,
    pub(super) events: mpsc::Sender<Event>,
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
    /// Those of them that ended by a fault of their own.
    pub faults: u32,
}

/// An unload that workers have been told of.
#[derive(Debug)]
pub(super) struct Unload {
    /// The number of the message that told them.
    pub id: u64,
    /// The workers that have not answered it.
    pub workers: HashSet<WorkerId>,
    pub reply: oneshot::Sender<()>,
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
            idle_boost: IdleBoost::default(),
            poison: Poison::default(),
            recycling: Recycling::new(worker_memory_bytes, workers.len(), Instant::now()),
            started: Instant::now(),
            registry,
            supervision,
            restarts: Budget::of_all(supervision.restarts_max, workers.len()),
            metrics,
            welcome,
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

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn tell(&self, slot: Slot, event: WorkerEvent) {
        if let Some(line) = self.lines.get(usize::from(slot)) {
            line.tell(event);
        }
    }
}

/// What ended a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Culprit {
    /// A fault of its own.
    Worker,
    /// Something else: we, an administrator, or the kernel for want of memory.
    Other,
}

pub(super) fn answer(item: Item, outcome: Result<Answered, ItemError>) {
    // The channel holds one answer for each item of the request; the client may have gone.
    let _ = item.reply.try_send((item.index, outcome));
}
