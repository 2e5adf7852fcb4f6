//! Decides when a request may end with a status other than 200, and an update with a refusal. Pure:
//! it compares the events before and after.
//!
//! | status | allowed |
//! |---|---|
//! | 429 | while clients storm its model |
//! | 504 | where the client's deadline was shorter than the server's |
//! | 500 | where two workers crashed, or five died, while it was in flight |
//! | 404 | while its model is unloaded (see [`e2e::history::live`]) |
//! | 4xx | where the request is invalid; such requests belong to no model's history |

use std::{collections::BTreeMap, time::Duration};

use crate::ledger::RequestInfo;

/// Deaths of any kind that fail an item.
const ITEM_DEATHS_MAX: u64 = 5;
/// Crashes that fail an item.
const ITEM_CRASHES_MAX: u64 = 2;
/// Deaths of loading workers after which the server may refuse the version.
const LOAD_DEATHS_MAX: u64 = 2;

/// Events in progress and event counts so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventCounts {
    /// By model: storms in progress, and storms started.
    storms: BTreeMap<&'static str, (u64, u64)>,
    /// Workers sent a crash signal, and those whose crash the server has noticed.
    pub crashes: u64,
    pub crashes_noticed: u64,
    /// Workers sent any fatal signal, and those whose death the server has noticed.
    pub deaths: u64,
    pub deaths_noticed: u64,
    pub checkers_killed: u64,
    pub hangups: u64,
    last_hangup: Option<Duration>,
}

impl EventCounts {
    pub(crate) fn storm_begins(&mut self, model: &'static str) {
        let (running, total) = self.storms.entry(model).or_default();
        (*running, *total) = (*running + 1, *total + 1);
    }

    pub(crate) fn storm_ends(&mut self, model: &'static str) {
        self.storms.entry(model).or_default().0 -= 1;
    }

    pub(crate) fn hangup(&mut self, now: Duration) {
        self.hangups += 1;
        self.last_hangup = Some(now);
    }

    /// Returns whether no SIGHUP was sent since `then`.
    pub(crate) fn quiet_since(&self, then: Duration) -> bool {
        self.last_hangup.is_none_or(|last| last < then)
    }

    fn storm(&self, model: &str) -> (u64, u64) {
        self.storms.get(model).copied().unwrap_or_default()
    }

    /// Returns why a request that started with counts `self` may have ended with this status at
    /// `now`.
    pub(crate) fn excuse(
        &self,
        now: &Self,
        info: RequestInfo,
        status: u16,
    ) -> Option<&'static str> {
        let then = self.storm(info.model);
        let stormed = then.0 > 0 || then.1 != now.storm(info.model).1;
        let (crashes, deaths) = (now.crashes - self.crashes, now.deaths - self.deaths);
        match status {
            429 if stormed => Some("storm"),
            504 if info.short => Some("short deadline"),
            500 if crashes >= ITEM_CRASHES_MAX || deaths >= ITEM_DEATHS_MAX => Some("workers died"),
            _ => None,
        }
    }

    /// Returns whether a call with a valid candidate, started with counts `self`, may be refused
    /// with this kind at `now`.
    pub(crate) fn may_refuse(&self, now: &Self, kind: &str) -> bool {
        match kind {
            // A newer update arrived, or too many did, or the version was rolled back.
            "superseded" | "busy" | "quarantined" => true,
            // All workers loading it died: one crash, or two deaths, when few workers were running.
            "crash" => {
                let (crashes, deaths) = (self.crashes_noticed, self.deaths_noticed);
                let checker = now.checkers_killed != self.checkers_killed;
                checker || now.crashes > crashes || now.deaths - deaths >= LOAD_DEATHS_MAX
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: RequestInfo = RequestInfo { model: "m", route: "/embed", short: false };

    #[test]
    fn failures_are_excused_only_by_events_during_the_request() {
        let quiet = EventCounts::default();
        for status in [200, 400, 404, 429, 500, 503, 504] {
            assert_eq!(quiet.excuse(&quiet, REQUEST, status), None, "{status}");
        }
        let mut stormy = quiet.clone();
        stormy.storm_begins("m");
        let mut after = stormy.clone();
        after.storm_ends("m");
        assert_eq!(quiet.excuse(&stormy, REQUEST, 429), Some("storm"));
        assert_eq!(stormy.excuse(&after, REQUEST, 429), Some("storm"));
        assert_eq!(quiet.excuse(&after, REQUEST, 429), Some("storm"));
        assert_eq!(after.excuse(&after, REQUEST, 429), None);
        assert_eq!(quiet.excuse(&stormy, RequestInfo { model: "other", ..REQUEST }, 429), None);
        assert_eq!(quiet.excuse(&stormy, REQUEST, 503), None);

        let short = RequestInfo { short: true, ..REQUEST };
        assert_eq!(quiet.excuse(&quiet, short, 504), Some("short deadline"));
        let crashed = |crashes, deaths| EventCounts { crashes, deaths, ..EventCounts::default() };
        assert!(quiet.excuse(&crashed(2, 2), REQUEST, 500).is_some());
        assert!(quiet.excuse(&crashed(0, 5), REQUEST, 500).is_some());
        assert!(quiet.excuse(&crashed(1, 4), REQUEST, 500).is_none());
    }

    #[test]
    fn a_good_update_is_refused_only_because_of_other_events() {
        let (quiet, killed) =
            (EventCounts::default(), EventCounts { checkers_killed: 1, ..EventCounts::default() });
        assert!(quiet.may_refuse(&quiet, "superseded"));
        assert!(quiet.may_refuse(&killed, "crash"));
        let ended = |crashes, deaths| EventCounts { crashes, deaths, ..EventCounts::default() };
        assert!(quiet.may_refuse(&ended(1, 1), "crash"));
        assert!(quiet.may_refuse(&ended(0, 2), "crash"));
        assert!(!quiet.may_refuse(&ended(0, 1), "crash"));
        assert!(ended(1, 1).may_refuse(&ended(1, 1), "crash"), "the server had not noticed it yet");
        let known = EventCounts { crashes_noticed: 1, deaths_noticed: 1, ..ended(1, 1) };
        assert!(!known.may_refuse(&known, "crash"));
        assert!(!known.may_refuse(&EventCounts { deaths: 2, ..known.clone() }, "crash"));
        for kind in ["crash", "load", "contract", "timeout", "internal", "space"] {
            assert!(!killed.may_refuse(&killed, kind), "{kind}");
        }
    }
}
