//! Groups and pings for a worker, and its answers.

use std::time::Instant;

use crate::dispatch::policy::{
    groups::{Groups, SentGroup, TakenItems},
    scheduler::{Charge, Group, ItemId},
    session::{
        Session,
        process::{Liveness, Ping, Process, Service, Socket, Stage},
    },
};

static NO_GROUPS: Groups = Groups::new();

impl Service {
    /// Creates the work of a worker that is ready since `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, groups: Groups::new(), ping: Ping::None }
    }
}

impl Session {
    /// Returns the groups sent to the worker.
    pub(crate) fn groups(&self) -> &Groups {
        self.process().and_then(Process::service).map_or(&NO_GROUPS, |service| &service.groups)
    }

    /// Returns the worker's service if it can be sent a group: it serves, is not about to exit, and
    /// its socket is open.
    fn ready_service(&self) -> Option<&Service> {
        let process = self.process()?;
        let killed = matches!(process.liveness(), Some(Liveness::Killed(_)) | None);
        match &process.stage {
            Stage::Serving(service) if process.socket == Socket::Open && !killed => Some(service),
            _ => None,
        }
    }

    /// Returns whether the worker has nothing to do and may receive work.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready_service().is_some_and(|service| service.groups.is_empty())
    }

    /// Returns whether the worker may receive its next group early, because its current one
    /// finishes before another could be sent.
    pub(crate) fn is_nearly_idle(&self) -> bool {
        self.ready_service().is_some_and(|service| service.groups.is_nearly_done())
    }

    /// Records that the worker was sent a group.
    pub(crate) fn group_sent(&mut self, group: &Group, sent: SentGroup) {
        debug_assert!(self.ready_service().is_some(), "only a serving worker receives a group");
        if let Some(service) = self.service_mut() {
            service.groups.push(group, sent);
        }
    }

    /// Adds the time of a micro-batch of the group with this id. See [`Groups::record_time`].
    pub(crate) fn record_time(&mut self, group: u64, micros: u32) -> Option<Charge> {
        self.service_mut()?.groups.record_time(group, micros)
    }

    /// Takes the items at these indices of the group with this id, which the worker has answered.
    /// Returns `None` if one of them is not waiting for an answer.
    pub(crate) fn answered(
        &mut self,
        group: u64,
        indices: impl Iterator<Item = u32>,
    ) -> Option<TakenItems> {
        self.service_mut()?.groups.answered(group, indices)
    }

    /// Returns the id of the group to terminate now because the deadline of an unanswered item has
    /// passed.
    pub(crate) fn terminate(
        &mut self,
        deadline: impl Fn(&ItemId) -> Option<Instant>,
        now: Instant,
    ) -> Option<u64> {
        self.service_mut()?.groups.terminate(deadline, now)
    }

    /// Asks the worker to refresh and give a sign of life. Returns whether to send a ping now; then
    /// call [`Session::pinged`]. If the last ping is unanswered, the next one follows its answer,
    /// because the worker may have read the last one before the event that this one is about.
    #[must_use]
    pub(crate) fn ping(&mut self) -> bool {
        let Some(Process { stage: Stage::Serving(service), .. }) = self.process_mut() else {
            return false;
        };
        match service.ping {
            Ping::None => return self.ready_service().is_some(),
            Ping::Sent(at) | Ping::Owed(at) => service.ping = Ping::Owed(at),
        }
        false
    }

    /// Records that a ping was sent.
    pub(crate) fn pinged(&mut self, now: Instant) {
        if let Some(service) = self.service_mut()
            && service.ping == Ping::None
        {
            service.ping = Ping::Sent(now);
        }
    }

    /// Records an incoming message, which is a sign of life. Returns whether to send an owed ping
    /// now; then call [`Session::pinged`].
    #[must_use]
    pub(crate) fn message_received(&mut self) -> bool {
        let Some(service) = self.service_mut() else { return false };
        let owed = matches!(service.ping, Ping::Owed(_));
        service.ping = Ping::None;
        owed && self.ready_service().is_some()
    }
}
