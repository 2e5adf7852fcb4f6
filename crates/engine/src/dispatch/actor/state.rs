//! The dispatcher's data. The other files of this module import it; it imports none of them.

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
    item::{Item, ItemAnswer, ItemError},
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

/// Events that may be queued. When the dispatcher falls behind, handlers and links wait.
pub const EVENTS_MAX: usize = 1024;
/// The state of the dispatcher task.
#[derive(Debug)]
pub struct Dispatcher {
    pub(super) registry: Arc<Registry>,
    pub(super) supervision: Supervision,
    /// The restart budget shared by all workers.
    pub(super) restarts: Budget,
    pub(super) metrics: Arc<Metrics>,
    pub(super) welcome: Welcome,
    pub(super) workers: Vec<Worker>,
    /// Whether workers may start. Until a model serves, they would have nothing to load.
    pub(super) may_start: bool,
    pub(super) scheduler: Scheduler,
    /// By slot.
    pub(super) estimates: Vec<Estimate>,
    pub(super) idle_boost: IdleBoost,
    pub(super) poison: Poison,
    pub(super) recycling: Recycling,
    /// The log filter, once it was changed.
    pub(super) log_filter: Option<String>,
    pub(super) items: HashMap<ItemId, Accepted>,
    last_id: u64,
    /// The origin of item ages.
    pub(super) started: Instant,
    pub(super) probes: Vec<oneshot::Sender<()>>,
    pub(super) draining: Option<Instant>,
    pub(super) retry_loads_at: Option<Instant>,
    pub(super) events: mpsc::Sender<Event>,
    updates: Vec<UpdateHandle>,
    pub(super) unloads: Vec<Unload>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) health: watch::Sender<Health>,
}

/// An item that is queued or running.
#[derive(Debug)]
pub(super) struct Accepted {
    pub item: Item,
    pub age: Age,
    pub work: Work,
    pub size: Size,
    /// The committed generation when the item arrived. No older one may answer it if a newer one
    /// can.
    pub min_generation: Generation,
    /// How long it waited for a worker, once it has one.
    pub waited: Duration,
    /// Workers that died while computing it.
    pub deaths: u32,
    /// The deaths among them that were the worker's own fault.
    pub faults: u32,
}

/// An unload that workers have been told about.
#[derive(Debug)]
pub(super) struct Unload {
    /// The id of the message that told them.
    pub id: u64,
    /// The workers that have not answered it yet.
    pub workers: HashSet<WorkerId>,
    pub reply: oneshot::Sender<()>,
}

/// The dependencies of a dispatcher.
#[derive(Debug)]
pub struct Deps {
    pub registry: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    pub supervision: Supervision,
    /// Sent to workers when they start.
    pub welcome: Welcome,
    /// The update queues, which are notified when workers load or exit.
    pub updates: Vec<UpdateHandle>,
    pub events: mpsc::Sender<Event>,
    /// Where the dispatcher publishes its backlog.
    pub backlog: Arc<Backlog>,
    /// Workers that use more than this are recycled.
    pub worker_memory_bytes: Option<u64>,
}

impl Dispatcher {
    /// Creates a dispatcher. Its workers start with [`Event::StartWorkers`].
    pub fn new(deps: Deps, workers: Vec<Worker>) -> (Self, watch::Receiver<Health>) {
        let Deps {
            registry,
            metrics,
            supervision,
            welcome,
            updates,
            events,
            backlog,
            worker_memory_bytes,
        } = deps;
        let (health, receiver) = watch::channel(Health::default());
        let dispatcher = Self {
            estimates: vec![Estimate::default(); registry.models().len()],
            idle_boost: IdleBoost::default(),
            poison: Poison::default(),
            recycling: Recycling::new(worker_memory_bytes, workers.len(), Instant::now()),
            log_filter: None,
            started: Instant::now(),
            registry,
            supervision,
            restarts: Budget::shared(supervision.restarts_max, workers.len()),
            metrics,
            welcome,
            workers,
            may_start: false,
            scheduler: Scheduler::default(),
            items: HashMap::new(),
            last_id: 0,
            probes: Vec::new(),
            draining: None,
            retry_loads_at: None,
            events,
            updates,
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

    pub(super) fn notify(&self, slot: Slot, event: WorkerEvent) {
        if let Some(updates) = self.updates.get(usize::from(slot)) {
            updates.notify(event);
        }
    }
}

/// The cause of a worker's exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Culprit {
    /// A fault in the worker.
    Worker,
    /// Something else: the supervisor, an administrator, or the kernel when memory ran out.
    Other,
}

pub(super) fn answer(item: Item, outcome: Result<ItemAnswer, ItemError>) {
    // The channel has room for one answer per item of the request; the client may have
    // disconnected.
    let _ = item.reply.try_send((item.index, outcome));
}
