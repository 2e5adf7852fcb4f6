//! What a worker is asked, and what it answers: groups and pings.

use std::time::Instant;

use crate::dispatch::policy::{
    groups::{Groups, Sent, Taken},
    scheduler::{Charge, Group, ItemId},
    session::{
        Session,
        process::{Conduct, Ping, Process, Service, Socket, Stage},
    },
};

static NO_GROUPS: Groups = Groups::new();

impl Service {
    /// Of a worker that is ready since `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, groups: Groups::new(), ping: Ping::None }
    }
}

impl Session {
    /// The groups that the worker has.
    pub(crate) fn groups(&self) -> &Groups {
        self.process().and_then(Process::service).map_or(&NO_GROUPS, |service| &service.groups)
    }

    /// What it can be sent a group with: it serves, is not about to end, and reads its socket.
    fn ready_service(&self) -> Option<&Service> {
        let process = self.process()?;
        let killed = matches!(process.conduct(), Some(Conduct::Killed(_)) | None);
        match &process.stage {
            Stage::Serving(service) if process.socket == Socket::Open && !killed => Some(service),
            _ => None,
        }
    }

    /// Whether the worker has nothing to do and may get work.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready_service().is_some_and(|service| service.groups.is_empty())
    }

    /// Whether the worker may get its next group already: what it has is done before another could
    /// be sent.
    pub(crate) fn is_nearly_idle(&self) -> bool {
        self.ready_service().is_some_and(|service| service.groups.are_nearly_done())
    }

    /// The worker is sent a group.
    pub(crate) fn group_sent(&mut self, group: &Group, sent: Sent) {
        debug_assert!(self.ready_service().is_some(), "only a worker that serves gets a group");
        if let Some(service) = self.service_mut() {
            service.groups.push(group, sent);
        }
    }

    /// A micro-batch of the group with this number has taken `micros`. See [`Groups::took`].
    pub(crate) fn took(&mut self, group: u64, micros: u32) -> Option<Charge> {
        self.service_mut()?.groups.took(group, micros)
    }

    /// The worker has answered the items at these places of the group with this number. `None`:
    /// they are not there to be answered.
    pub(crate) fn answered(
        &mut self,
        group: u64,
        places: impl Iterator<Item = u32>,
    ) -> Option<Taken> {
        self.service_mut()?.groups.answered(group, places)
    }

    /// The number of the group that is to be terminated now: the deadline of one of its unanswered
    /// items has passed.
    pub(crate) fn terminate(
        &mut self,
        deadline: impl Fn(&ItemId) -> Option<Instant>,
        now: Instant,
    ) -> Option<u64> {
        self.service_mut()?.groups.terminate(deadline, now)
    }

    /// The worker is to refresh and give a sign of life. Returns whether it is to be sent a ping now;
    /// then call [`Session::pinged`]. One that has not answered the last ping gets the next one
    /// after that: it may have read the last one before what this one is about.
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

    /// A ping has been sent.
    pub(crate) fn pinged(&mut self, now: Instant) {
        if let Some(service) = self.service_mut()
            && service.ping == Ping::None
        {
            service.ping = Ping::Sent(now);
        }
    }

    /// A message has arrived, which is a sign of life. Returns whether a ping is owed and to be sent
    /// now; then call [`Session::pinged`].
    #[must_use]
    pub(crate) fn heard(&mut self) -> bool {
        let Some(service) = self.service_mut() else { return false };
        let owed = matches!(service.ping, Ping::Owed(_));
        service.ping = Ping::None;
        owed && self.ready_service().is_some()
    }
}
