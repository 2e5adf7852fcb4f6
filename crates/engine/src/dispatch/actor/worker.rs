//! One worker: its [`Session`] and the handles of its process and socket, kept in step with it.

use std::time::Instant;

use bytes::Bytes;
use onnxd_proto::wire::message::ToWorker;
use onnxd_telemetry::metrics::KillReason;

use crate::dispatch::{
    policy::{
        groups::{SentGroup, UnansweredItems},
        scheduler::{Group, ItemId},
        session::{Finished, Progress, Session, SocketAction},
    },
    worker::Status,
};
use crate::pool::{
    link::Link,
    process_exit::ProcessExit,
    process_monitor::{ProcessMonitor, RunningProcess},
};

/// One worker.
#[derive(Debug)]
pub struct Worker {
    pub(crate) session: Session,
    pub(crate) monitor: ProcessMonitor,
    /// The CPU to pin it to.
    pub(crate) cpu: u16,
    /// CPUs of other workers that it may borrow while they are idle.
    pub helper_cpus: Vec<u16>,
    process: Option<RunningProcess>,
    link: Option<Link>,
}

impl AsRef<Session> for Worker {
    fn as_ref(&self) -> &Session {
        &self.session
    }
}

impl Worker {
    /// Creates a worker whose process is not started yet.
    pub fn new(monitor: ProcessMonitor, cpu: u16, session: Session) -> Self {
        Self { session, monitor, cpu, helper_cpus: Vec::new(), process: None, link: None }
    }

    /// Returns the worker's status.
    pub(crate) fn status(&self, id: usize) -> Status {
        let session = &self.session;
        Status {
            id,
            pid: self.pid().unwrap_or(0),
            cpu: session.is_pinned().then_some(self.cpu),
            state: session.state(),
            loads: session.loads(),
            restarts: session.restarts(),
            items: session.groups().unanswered().count(),
        }
    }

    /// Returns its process id, if it has a process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid)
    }

    /// Records the started process. Returns whether to open its socket.
    pub(crate) fn started(&mut self, process: RunningProcess, now: Instant) -> SocketAction {
        let action = self.session.process_started(now);
        if action == SocketAction::Refuse {
            process.kill();
        }
        self.process = Some(process);
        action
    }

    /// Records the open socket.
    pub(crate) fn connected(&mut self, link: Link) {
        self.session.connected();
        self.link = Some(link);
    }

    /// Sends a message. Returns whether that succeeded.
    pub(crate) fn send(&self, id: u64, message: &ToWorker, payload: Vec<Bytes>) -> bool {
        let Some(link) = &self.link else { return false };
        match link.send(id, message, payload) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "cannot send a message to a worker");
                false
            }
        }
    }

    /// Sends a group. Kills the worker on failure, which requeues the items.
    pub(crate) fn send_group(
        &mut self,
        group: &Group,
        sent: SentGroup,
        message: &ToWorker,
        payload: Vec<Bytes>,
    ) {
        self.session.group_sent(group, sent);
        if !self.send(sent.id, message, payload) {
            self.kill(None);
        }
    }

    /// Asks the worker to refresh and give a sign of life.
    pub(crate) fn ping(&mut self, now: Instant) {
        if self.session.ping() {
            self.send_ping(now);
        }
    }

    /// Records the arrival of a message.
    pub(crate) fn message_received(&mut self, now: Instant) {
        if self.session.message_received() {
            self.send_ping(now);
        }
    }

    fn send_ping(&mut self, now: Instant) {
        if self.send(0, &ToWorker::Ping, Vec::new()) {
            self.session.pinged(now);
        }
    }

    /// Tells the worker to terminate its current group if the deadline of an unanswered item has
    /// passed. Returns whether it did.
    pub(crate) fn terminate(
        &mut self,
        deadline: impl Fn(&ItemId) -> Option<Instant>,
        now: Instant,
    ) -> bool {
        let over = self.session.terminate(deadline, now);
        if let (Some(id), Some(process)) = (over, &self.process) {
            process.terminate(id);
        }
        over.is_some()
    }

    /// Kills the process. Its process monitor reports the exit.
    pub(crate) fn kill(&mut self, reason: Option<KillReason>) {
        if self.session.kill(reason)
            && let Some(process) = &self.process
        {
            process.kill();
        }
    }

    /// Closes the socket so that the process exits on its own.
    pub(crate) fn hang_up(&mut self) {
        self.session.hang_up();
        self.link = None;
    }

    /// Closes the socket so that the process exits on its own, and does not restart it.
    pub(crate) fn drain(&mut self) {
        self.session.drain();
        self.link = None;
    }

    /// Records that the process exited or could not be started.
    pub(crate) fn process_ended(&mut self, exit: ProcessExit, now: Instant) -> Progress {
        self.link = None;
        self.session.process_ended(exit, now)
    }

    /// Records that the socket has closed. A process that is still alive is of no use and is
    /// killed.
    pub(crate) fn socket_ended(&mut self) -> Progress {
        self.link = None;
        self.kill(None);
        self.session.socket_ended()
    }

    /// Records a protocol violation and kills the process.
    pub(crate) fn broke_protocol(&mut self) -> Progress {
        self.link = None;
        self.kill(None);
        self.session.broke_protocol()
    }

    /// Takes the unanswered items, which another worker must compute.
    pub(crate) fn take_unanswered(&mut self) -> Vec<UnansweredItems> {
        self.link = None;
        self.session.take_unanswered()
    }

    /// Cleans up after a finished process. Returns `None` if it is not finished yet.
    pub(crate) fn finish(&mut self, now: Instant, jitter: f64) -> Option<Finished> {
        let finished = self.session.finish(now, jitter)?;
        (self.process, self.link) = (None, None);
        Some(finished)
    }
}
