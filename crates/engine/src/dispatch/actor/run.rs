//! The main loop: handles events, acts on due timers and hands out queued work.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::clock::sleep_until;
use crate::dispatch::{
    actor::{state::Dispatcher, worker::Worker},
    event::Event,
    policy::session,
    worker::{State, Status},
};
use crate::pool::{WorkerId, process_exit::ProcessExit};

/// Events handled before queued work is handed out.
const EVENTS_AT_ONCE: usize = 64;
/// How often a worker that failed to load is pinged. Its own back-off decides whether it retries.
const RETRY_LOADS_EVERY: Duration = Duration::from_secs(1);

impl Dispatcher {
    /// Runs until every worker has stopped.
    pub async fn run(mut self, mut incoming: mpsc::Receiver<Event>) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            self.start_due(Instant::now());
            self.retry_loads(Instant::now());
            self.enforce_deadlines(Instant::now());
            self.stop_unread(Instant::now());
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
        let starts = self.startable().iter().filter_map(|worker| worker.session.start_at());
        let ends = self
            .next_overdue()
            .into_iter()
            .chain(self.next_unread())
            .chain(self.next_memory_check());
        starts.chain(self.draining).chain(self.retry_loads_at).chain(ends).min()
    }

    /// Pings workers that could not load the committed generation: they get no work, so nothing
    /// else would make them try again.
    fn retry_loads(&mut self, now: Instant) {
        if self.retry_loads_at.is_some_and(|at| at <= now) {
            self.retry_loads_at = None;
            self.ping();
        }
        let failed = |worker: &Worker| worker.session.wants_retry();
        if self.retry_loads_at.is_none() && self.workers.iter().any(failed) {
            self.retry_loads_at = Some(now + RETRY_LOADS_EVERY);
        }
    }

    /// Returns the workers that may start: none until a model serves.
    fn startable(&self) -> &[Worker] {
        if self.may_start { &self.workers } else { &[] }
    }

    fn start_due(&mut self, now: Instant) {
        session::shorten_wait(self.workers.iter_mut().map(|worker| &mut worker.session));
        for id in 0..self.startable().len() {
            let worker = &mut self.workers[id];
            let Some(epoch) = worker.session.start_due(now) else { continue };
            match self.registry.page().read_only() {
                Ok(page) => worker.monitor.start(epoch, page),
                Err(error) => {
                    tracing::error!(%error, "cannot pass the control page to a worker");
                    self.process_ended(id, ProcessExit::not_started(&error));
                }
            }
        }
        if self.draining.is_some_and(|deadline| deadline <= now) {
            self.draining = None;
            self.workers.iter_mut().for_each(|worker| worker.kill(None));
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::StartWorkers => self.may_start = true,
            Event::Submitted(items) => self.submit(items),
            Event::ProcessReported(id, epoch, report) => self.process_reported(id, epoch, report),
            Event::MessageArrived(id, epoch, incoming) => {
                // Ignore an earlier process: its items were given to another worker.
                if self.workers[id].session.listens_to(epoch) {
                    self.message_arrived(id, incoming);
                }
            }
            Event::StatusRequested(reply) => {
                self.metrics.set_items(self.items.len());
                let status = (0..).zip(&self.workers).map(|(id, worker)| match self.may_start {
                    true => worker.status(id),
                    false => Status { state: State::Starting, ..worker.status(id) },
                });
                // The receiver may have been dropped.
                let _ = reply.send(status.collect());
            }
            Event::WorkersRequested(reply) => {
                let serves = |(_, worker): &(WorkerId, &Worker)| worker.session.serves();
                let ids = (0..).zip(&self.workers).filter(serves).map(|(id, _)| id);
                let _ = reply.send(ids.collect());
            }
            Event::LoadAhead(id, slot, version) => self.load_ahead(id, slot, version),
            Event::DropLoadedAhead(slot) => self.drop_loaded_ahead(slot),
            Event::Unload(slot, reply) => self.unload(slot, reply),
            Event::Committed => self.ping(),
            Event::LogFilterChanged(filter) => self.filter_logs(filter),
            Event::ProbeRequested(reply) => {
                self.probes.retain(|probe| !probe.is_closed());
                self.probes.push(reply);
                self.ping();
            }
            Event::Drain => self.drain(),
        }
    }
}
