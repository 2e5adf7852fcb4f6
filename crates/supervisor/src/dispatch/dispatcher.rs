//! The one task that owns the queue and the workers. Everything that happens comes in as an
//! [`Event`]; nothing here waits for anything else, so no worker and no client can hold it up.

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use onnxd_proto::{
    exit::ExitStatus,
    message::{Embeddings, FromWorker, ToWorker, Welcome},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

use super::{
    Embedded, Event, Item, ItemError, Timing,
    scheduler::{ItemId, Scheduler, Unit},
    worker::{self, Worker},
};
use crate::{
    counters::Counters,
    models::registry::Registry,
    pool::{
        Epoch, WorkerId,
        keeper::Report,
        link::{Incoming, Link},
        state::State,
    },
};

/// Events that may wait. Handlers and links wait in turn when the dispatcher is behind.
pub(crate) const EVENTS_MAX: usize = 1024;
/// Workers that may end while they compute an item before it is answered 500.
const ITEM_DEATHS_MAX: u32 = 2;
/// How long workers may take to end by themselves when the supervisor stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// How the workers are, for everybody who waits for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// Workers that answer requests.
    pub serving: usize,
    /// Whether every worker has been ready once: from then on the server is ready as long as one
    /// serves.
    pub warmed_up: bool,
    /// Set when no worker is left.
    pub fatal: Option<(ExitStatus, String)>,
    /// All workers have ended as they were told to.
    pub stopped: bool,
}

impl Health {
    /// Whether requests are answered.
    pub(crate) fn is_ready(&self) -> bool {
        self.warmed_up && self.serving > 0
    }
}

/// The state of the task.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    registry: Arc<Registry>,
    counters: Arc<Counters>,
    welcome: Welcome,
    workers: Vec<Worker>,
    warmed_up: Vec<bool>,
    scheduler: Scheduler,
    items: HashMap<ItemId, Item>,
    last_id: u64,
    probes: Vec<oneshot::Sender<()>>,
    draining: Option<Instant>,
    events: mpsc::Sender<Event>,
    health: watch::Sender<Health>,
}

impl Dispatcher {
    /// A dispatcher for workers that are not started yet; [`Dispatcher::run`] starts them.
    pub(crate) fn new(
        registry: Arc<Registry>,
        counters: Arc<Counters>,
        welcome: Welcome,
        workers: Vec<Worker>,
        events: mpsc::Sender<Event>,
    ) -> (Self, watch::Receiver<Health>) {
        let (health, receiver) = watch::channel(Health::default());
        let dispatcher = Self {
            registry,
            counters,
            welcome,
            warmed_up: vec![false; workers.len()],
            workers,
            scheduler: Scheduler::default(),
            items: HashMap::new(),
            last_id: 0,
            probes: Vec::new(),
            draining: None,
            events,
            health,
        };
        (dispatcher, receiver)
    }

    /// Works until every worker has stopped.
    pub(crate) async fn run(mut self, mut incoming: mpsc::Receiver<Event>) {
        loop {
            self.start_due(Instant::now());
            self.publish_health();
            if self.health.borrow().stopped {
                return;
            }
            let next = self.next_deadline();
            tokio::select! {
                event = incoming.recv() => match event {
                    Some(event) => self.handle(event),
                    None => return,
                },
                () = sleep_until(next) => {}
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let starts = self.workers.iter().filter_map(|worker| worker.state.start_at());
        starts.chain(self.draining).min()
    }

    fn start_due(&mut self, now: Instant) {
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
                    let ended =
                        crate::pool::keeper::Ended { code: None, reason: error.to_string() };
                    worker.ended(now, &ended, 0.0);
                }
            }
        }
        if self.draining.is_some_and(|deadline| deadline <= now) {
            self.draining = None;
            self.workers.iter_mut().for_each(Worker::kill);
        }
    }

    fn publish_health(&self) {
        let all = |state| self.workers.iter().all(|worker| worker.state.state() == state);
        let fatal = all(State::Failed).then(|| {
            let reason = self.workers.iter().find_map(|worker| worker.hopeless.clone());
            match reason {
                Some(reason) => {
                    (ExitStatus::Configuration, format!("no worker can start: {reason}"))
                }
                None => (ExitStatus::Unavailable, "all workers failed".to_owned()),
            }
        });
        let ended =
            |worker: &Worker| matches!(worker.state.state(), State::Stopped | State::Failed);
        let health = Health {
            serving: self.workers.iter().filter(|worker| worker.state.serves()).count(),
            warmed_up: self.warmed_up.iter().all(|&ready| ready),
            stopped: fatal.is_none() && self.workers.iter().all(ended),
            fatal,
        };
        self.health.send_if_modified(|present| {
            let modified = *present != health;
            *present = health;
            modified
        });
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Submitted(items) => self.submit(items),
            Event::Kept(id, epoch, report) => self.kept(id, epoch, report),
            Event::Arrived(id, epoch, incoming) => {
                // What a process sent before it ended has been given to another.
                if self.workers[id].epoch == epoch && self.workers[id].is_running() {
                    self.arrived(id, incoming);
                }
            }
            Event::StatusAsked(reply) => {
                let status = (0..).zip(&self.workers).map(|(id, worker)| worker.status(id));
                // The asker may have gone.
                let _ = reply.send(status.collect());
            }
            Event::ProbeAsked(reply) => self.probe(reply),
            Event::Drain => self.drain(),
        }
        self.hand_out();
    }

    fn submit(&mut self, items: Vec<Item>) {
        let mut units: Vec<(u64, Unit)> = Vec::new();
        for item in items {
            self.counters.items_total.add();
            let id = self.next_id();
            match units.last_mut() {
                Some((together, unit)) if *together == item.together && *together != 0 => {
                    unit.items.push(id);
                }
                _ => units.push((item.together, Unit { slot: item.slot, items: vec![id] })),
            }
            self.items.insert(id, item);
        }
        units.into_iter().for_each(|(_, unit)| self.scheduler.push(unit));
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Gives idle workers what waits.
    fn hand_out(&mut self) {
        loop {
            let idle = self.workers.iter().filter(|worker| worker.state.is_idle()).count();
            if idle == 0 {
                return;
            }
            let Some(mut group) = self.scheduler.next(idle) else { return };
            let gone = |item: &ItemId| self.items[item].reply.is_closed();
            let (cancelled, items): (Vec<_>, Vec<_>) = group.items.into_iter().partition(gone);
            for item in cancelled {
                self.items.remove(&item);
                self.counters.items_cancelled_total.add();
            }
            group.items = items;
            if !group.items.is_empty() {
                self.send_group(group);
            }
        }
    }

    fn send_group(&mut self, group: Unit) {
        let id = self.next_id();
        let mut texts = BytesMut::new();
        let mut options = Vec::with_capacity(group.items.len());
        for id in &group.items {
            let item = self.items.get_mut(id).expect("what is in a unit is in the table");
            item.waited = item.queued_at.elapsed();
            texts.extend_from_slice(&item.text);
            options.push(item.options.clone());
        }
        let message = ToWorker::Embed { slot: group.slot, items: options };
        let place = self.workers.iter().position(|worker| worker.state.is_idle());
        let worker = &mut self.workers[place.expect("a worker is idle, or no group is made")];
        worker.assign(id, group.slot, &group.items);
        if !worker.send(id, &message, texts.freeze()) {
            worker.kill();
        }
    }

    fn kept(&mut self, id: WorkerId, epoch: Epoch, report: Report) {
        let worker = &mut self.workers[id];
        match report {
            Report::Started(process, socket) => {
                tracing::info!(worker = id, pid = process.pid, "worker started");
                worker.started(process);
                let event = move |incoming| Event::Arrived(id, epoch, incoming);
                match Link::open(socket, self.events.clone(), event) {
                    Ok(link) => worker.connected(link),
                    Err(error) => {
                        tracing::error!(%error, "a worker's socket cannot be used");
                        worker.kill();
                    }
                }
            }
            Report::Ended(ended) => {
                self.give_back(id);
                let jitter = f64::from(u32::try_from((id * 37 + 11) % 64).unwrap_or(0)) / 64.0;
                let worker = &mut self.workers[id];
                worker.ended(Instant::now(), &ended, jitter);
                let state = worker.state.state();
                match state {
                    State::Stopped => tracing::info!(worker = id, "worker stopped"),
                    _ => tracing::warn!(worker = id, reason = ended.reason, ?state, "worker ended"),
                }
                if state == State::Backoff {
                    self.counters.worker_restarts_total.add();
                }
                if self.workers.iter().all(|worker| worker.state.state() == State::Failed) {
                    self.reject_all();
                }
            }
        }
    }

    /// No worker will come back: whoever waits is told.
    fn reject_all(&mut self) {
        self.scheduler.take_all();
        for (_, item) in self.items.drain() {
            answer(item, Err(ItemError::Stopped));
        }
    }

    /// Puts what a worker had back to the head of the queue, or answers what has taken too many
    /// workers with it.
    fn give_back(&mut self, id: WorkerId) {
        let Some((slot, items)) = self.workers[id].take_unanswered() else { return };
        let mut units = Vec::new();
        for id in items {
            let Some(item) = self.items.get_mut(&id) else { continue };
            item.deaths += 1;
            if item.deaths < ITEM_DEATHS_MAX {
                self.counters.items_retried_total.add();
                units.push(Unit { slot, items: vec![id] });
            } else if let Some(item) = self.items.remove(&id) {
                self.counters.items_poisonous_total.add();
                answer(item, Err(ItemError::Poisonous));
            }
        }
        self.scheduler.push_front(units);
    }

    fn arrived(&mut self, id: WorkerId, incoming: io::Result<Incoming>) {
        let incoming = match incoming {
            Ok(incoming) => incoming,
            Err(error) => {
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    tracing::error!(worker = id, %error, "a worker's socket failed");
                }
                self.give_back(id);
                // It may live on without its socket, which is of no use.
                return self.workers[id].kill();
            }
        };
        self.workers[id].pinged = false;
        for probe in self.probes.drain(..) {
            // The asker may have gone.
            let _ = probe.send(());
        }
        if let Err(reason) = self.message(id, incoming) {
            tracing::error!(worker = id, reason, "a worker broke the protocol");
            self.give_back(id);
            self.workers[id].kill();
        }
    }

    /// Acts on a message; an error says what is wrong with it.
    fn message(&mut self, id: WorkerId, incoming: Incoming) -> Result<(), &'static str> {
        let worker = &mut self.workers[id];
        match incoming.message {
            FromWorker::Hello { build_id, pinned } => {
                worker.pinned = pinned.is_ok();
                if let Err(reason) = pinned {
                    tracing::warn!(worker = id, cpu = worker.cpu, reason, "worker is not pinned");
                }
                if !worker.accept_build(&build_id) {
                    return Err("it is of another build");
                }
                let welcome = ToWorker::Welcome(self.welcome.clone());
                worker.send(0, &welcome, Bytes::new()).then_some(()).ok_or("it takes no message")
            }
            FromWorker::Ready => {
                worker.state.ready(Instant::now());
                self.warmed_up[id] = true;
                tracing::info!(worker = id, "worker ready");
                Ok(())
            }
            FromWorker::Loaded { slot, generation, load_micros } => {
                let loaded = worker.generations.get_mut(usize::from(slot));
                *loaded.ok_or("it has loaded a model that is not served")? = generation;
                let model = self.registry.at(slot).name.as_str();
                tracing::info!(worker = id, model, generation, load_micros, "worker refreshed");
                Ok(())
            }
            FromWorker::LoadFailed { slot, generation, reason } => {
                tracing::error!(worker = id, slot, generation, reason, "worker could not load");
                Ok(())
            }
            FromWorker::Embeddings(embeddings) => {
                self.embedded(id, incoming.id, &embeddings, &incoming.payload)
            }
            FromWorker::Rejected { items, reason } => {
                let items = worker.answered(incoming.id, items.into_iter());
                for item in items.ok_or("it rejects what it was not given")? {
                    if let Some(item) = self.items.remove(&item) {
                        answer(item, Err(ItemError::Rejected(reason.clone())));
                    }
                }
                Ok(())
            }
            FromWorker::Pong => Ok(()),
        }
    }

    fn embedded(
        &mut self,
        id: WorkerId,
        group: u64,
        embeddings: &Embeddings,
        payload: &Bytes,
    ) -> Result<(), &'static str> {
        let worker = &mut self.workers[id];
        if !worker::fits(embeddings, payload) {
            return Err("its payload is not as long as it says");
        }
        let slot = worker.group_slot(group).ok_or("it answers what it was not given")?;
        if self.registry.at(slot).record(embeddings.generation).is_none() {
            return Err("it names a generation that was never committed");
        }
        let places = embeddings.items.iter().map(|embedded| embedded.item);
        let items = worker.answered(group, places).ok_or("it answers an item twice")?;
        let width = embeddings.dimension as usize * size_of::<f32>();
        for (place, (item, embedded)) in items.into_iter().zip(&embeddings.items).enumerate() {
            let Some(item) = self.items.remove(&item) else { continue };
            let timing = Timing {
                queue: item.waited,
                tokenize: Duration::from_micros(embeddings.tokenize_micros.into()),
                infer: Duration::from_micros(embeddings.infer_micros.into()),
            };
            let components = payload.slice(place * width..(place + 1) * width);
            let generation = embeddings.generation;
            let embedded = Embedded { generation, components, tokens: embedded.tokens, timing };
            answer(item, Ok(embedded));
        }
        Ok(())
    }

    /// Asks every serving worker for a sign of life; the first one answers the probe.
    fn probe(&mut self, reply: oneshot::Sender<()>) {
        self.probes.retain(|probe| !probe.is_closed());
        self.probes.push(reply);
        for worker in self.workers.iter_mut().filter(|worker| worker.state.serves()) {
            if !worker.pinged {
                worker.pinged = worker.send(0, &ToWorker::Ping, Bytes::new());
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

fn answer(item: Item, outcome: Result<Embedded, ItemError>) {
    // The channel holds one answer for each item of the request; the client may have gone.
    let _ = item.reply.try_send((item.index, outcome));
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
