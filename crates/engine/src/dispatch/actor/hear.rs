//! What a worker's process and its socket report.

use std::{
    io,
    time::{Duration, Instant},
};

use onnxd_proto::wire::message::ToWorker;

use crate::dispatch::{actor::state::Dispatcher, event::Event};
use crate::pool::{
    Epoch, WorkerId,
    keeper::Report,
    link::{Incoming, Link},
};

/// How long workers may take to end by themselves when the supervisor stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

impl Dispatcher {
    pub(super) fn kept(&mut self, id: WorkerId, epoch: Epoch, report: Report) {
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

    pub(super) fn arrived(&mut self, id: WorkerId, incoming: io::Result<Incoming>) {
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
    pub(super) fn ping(&mut self) {
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

    pub(super) fn drain(&mut self) {
        self.draining = Some(Instant::now() + STOP_TIMEOUT);
        for worker in &mut self.workers {
            worker.state.drain();
            worker.hang_up();
        }
        self.reject_all();
    }
}
