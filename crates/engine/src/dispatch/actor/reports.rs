//! Handles reports of a worker's process and socket.

use std::{
    io,
    time::{Duration, Instant},
};

use crate::dispatch::{
    actor::{state::Dispatcher, worker::Worker},
    event::Event,
    policy::session::SocketAction,
};
use crate::pool::{
    Epoch, WorkerId,
    link::{Incoming, Link},
    process_monitor::Report,
};

/// How long workers may take to exit on their own when the supervisor stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

impl Dispatcher {
    pub(super) fn process_reported(&mut self, id: WorkerId, epoch: Epoch, report: Report) {
        let worker = &mut self.workers[id];
        match report {
            Report::Started(process, socket) => {
                tracing::info!(worker = id, pid = process.pid, "worker started");
                if worker.started(process, Instant::now()) == SocketAction::Refuse {
                    return;
                }
                let event = move |incoming| Event::MessageArrived(id, epoch, incoming);
                match Link::open(socket, self.events.clone(), event) {
                    Ok(link) => worker.connected(link),
                    Err(error) => {
                        tracing::error!(%error, "cannot use a worker's socket");
                        worker.kill(None);
                    }
                }
            }
            Report::Stopped => worker.session.stopped(Instant::now()),
            Report::Continued => worker.session.continued(),
            Report::Exited(exit) => self.process_ended(id, exit),
        }
    }

    pub(super) fn message_arrived(&mut self, id: WorkerId, incoming: io::Result<Incoming>) {
        let incoming = match incoming {
            Ok(incoming) => incoming,
            Err(error) => {
                use io::ErrorKind::{ConnectionReset, UnexpectedEof};
                if [UnexpectedEof, ConnectionReset].contains(&error.kind()) {
                    // Its items are requeued once its exit status shows whether they may be the
                    // cause.
                    return self.socket_ended(id);
                }
                tracing::error!(worker = id, %error, "worker's socket failed");
                return self.broke_protocol(id);
            }
        };
        self.workers[id].message_received(Instant::now());
        for probe in self.probes.drain(..) {
            // The receiver may have been dropped.
            let _ = probe.send(());
        }
        if let Err(reason) = self.message(id, incoming) {
            tracing::error!(worker = id, reason, "worker broke the protocol");
            self.broke_protocol(id);
        }
    }

    /// Asks every serving worker to refresh and give a sign of life.
    pub(super) fn ping(&mut self) {
        let now = Instant::now();
        self.workers.iter_mut().for_each(|worker| worker.ping(now));
    }

    pub(super) fn drain(&mut self) {
        self.draining = Some(Instant::now() + STOP_TIMEOUT);
        self.workers.iter_mut().for_each(Worker::drain);
        self.reject_all();
    }
}
