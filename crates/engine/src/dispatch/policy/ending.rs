//! When a worker is over. Its process ends and its socket ends, in any order and told by different
//! threads; what it wrote before it died is an answer like any other. So nothing is taken from it
//! before both have ended. [`Ending`] is pure; the dispatcher tells it what happened.

use std::time::{Duration, Instant};

use crate::pool::keeper::Ended;

/// How long what a worker wrote is read after its end: it lies in memory, so that only a reader
/// which hangs takes longer.
const READ_GRACE: Duration = Duration::from_secs(1);

/// How much of a worker has ended.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// Whether more may be read from it.
    listens: bool,
    /// How its process ended, and when that was told.
    ended: Option<(Ended, Instant)>,
}

impl Ending {
    /// Its socket is read from now on.
    pub(crate) fn connected(&mut self) {
        self.listens = true;
    }

    /// Whether what arrives counts.
    pub(crate) fn listens(&self) -> bool {
        self.listens
    }

    /// Nothing more comes, or none of it counts. Says how the process ended if it is all over now.
    pub(crate) fn deafen(&mut self) -> Option<Ended> {
        self.listens = false;
        self.ended.take().map(|(ended, _)| ended)
    }

    /// Its process has ended. Says so again if it is all over now.
    pub(crate) fn process_ended(&mut self, ended: Ended, now: Instant) -> Option<Ended> {
        self.ended = Some((ended, now));
        if self.listens { None } else { self.deafen() }
    }

    /// Until when its socket is waited for.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.ended.as_ref().map(|(_, since)| *since + READ_GRACE)
    }

    /// Says how the process ended if its socket has been waited for long enough.
    pub(crate) fn overdue(&mut self, now: Instant) -> Option<Ended> {
        if self.at().is_some_and(|at| at <= now) { self.deafen() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crash() -> Ended {
        Ended { code: None, signal: Some(11), reason: "signal 11".into(), scarce: false }
    }

    #[test]
    fn a_worker_is_over_when_its_process_and_its_socket_have_ended_in_whatever_order() {
        let now = Instant::now();
        let mut ending = Ending::default();
        ending.connected();
        assert_eq!(ending.process_ended(crash(), now), None);
        assert!(ending.listens(), "what it wrote before counts");
        assert_eq!(ending.deafen(), Some(crash()));
        assert!(!ending.listens());

        ending.connected();
        assert_eq!(ending.deafen(), None);
        assert!(
            !ending.listens() && ending.at().is_none(),
            "its process is killed, and waited for"
        );
        assert_eq!(ending.process_ended(crash(), now), Some(crash()));
    }

    #[test]
    fn a_worker_is_over_once() {
        let now = Instant::now();
        let mut ending = Ending::default();
        ending.connected();
        assert_eq!(ending.process_ended(crash(), now), None);
        assert_eq!(ending.overdue(now + READ_GRACE), Some(crash()));
        assert_eq!(ending.deafen(), None);
        assert_eq!(ending.overdue(now + READ_GRACE * 2), None);
    }

    #[test]
    fn a_process_that_was_not_started_has_no_socket_to_wait_for() {
        let mut ending = Ending::default();
        assert_eq!(ending.process_ended(crash(), Instant::now()), Some(crash()));
    }

    #[test]
    fn a_socket_that_does_not_end_is_waited_for_a_short_while() {
        let now = Instant::now();
        let mut ending = Ending::default();
        ending.connected();
        assert_eq!(ending.process_ended(crash(), now), None);
        assert_eq!(ending.at(), Some(now + READ_GRACE));
        assert_eq!(ending.overdue(now + READ_GRACE - Duration::from_millis(1)), None);
        assert_eq!(ending.overdue(now + READ_GRACE), Some(crash()));
        assert!(!ending.listens(), "what comes later was given to another");
    }
}
