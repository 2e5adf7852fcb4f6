//! When a request may end with something else than 200, and an update with a refusal. Pure: what
//! happened while it was under way decides.
//!
//! | status | allowed |
//! |---|---|
//! | 429 | while clients storm its model |
//! | 504 | where the client gave the request less time than the server does |
//! | 500 | where two workers crashed, or five ended, while it was under way |
//! | 404 | while its model is unloaded (see [`e2e::history::live`]) |
//! | 4xx | what is wrong by itself; such requests belong to no model's history |

use std::{collections::BTreeMap, time::Duration};

use crate::ledger::About;

/// Ends of any kind that an item may survive.
const DEATHS: u64 = 5;
/// Ends by a worker's own fault that an item may survive.
const CRASHES: u64 = 2;
/// Workers that have to be killed while they load a version, for it to be refused.
const LOADS: u64 = 2;

/// What goes on and what has happened until now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// By model: storms that go on, and storms that have begun.
    storms: BTreeMap<&'static str, (u64, u64)>,
    /// Workers that were given a signal of a fault, and those of them of which the server has heard.
    pub crashes: u64,
    pub crashes_over: u64,
    /// Workers that were given any deadly signal, and those of them of which the server has heard.
    pub deaths: u64,
    pub deaths_over: u64,
    pub checkers_killed: u64,
    pub hangups: u64,
    last_hangup: Option<Duration>,
}

impl Marks {
    pub(crate) fn storm_begins(&mut self, model: &'static str) {
        let (going, begun) = self.storms.entry(model).or_default();
        (*going, *begun) = (*going + 1, *begun + 1);
    }

    pub(crate) fn storm_ends(&mut self, model: &'static str) {
        self.storms.entry(model).or_default().0 -= 1;
    }

    pub(crate) fn hangup(&mut self, now: Duration) {
        self.hangups += 1;
        self.last_hangup = Some(now);
    }

    /// Whether no SIGHUP was sent since then.
    pub(crate) fn quiet_since(&self, then: Duration) -> bool {
        self.last_hangup.is_none_or(|last| last < then)
    }

    fn storm(&self, model: &str) -> (u64, u64) {
        self.storms.get(model).copied().unwrap_or_default()
    }

    /// Why a request that began when `self` was true may have ended with this status now.
    pub(crate) fn excuse(&self, now: &Self, about: About, status: u16) -> Option<&'static str> {
        let then = self.storm(about.model);
        let stormed = then.0 > 0 || then.1 != now.storm(about.model).1;
        let (crashes, deaths) = (now.crashes - self.crashes, now.deaths - self.deaths);
        match status {
            429 if stormed => Some("storm"),
            504 if about.short => Some("own deadline"),
            500 if crashes >= CRASHES || deaths >= DEATHS => Some("took workers with it"),
            _ => None,
        }
    }

    /// Whether a call that was made when `self` was true, and of which nothing bad is known, may be
    /// refused in this way now.
    pub(crate) fn may_refuse(&self, now: &Self, kind: &str) -> bool {
        match kind {
            // A newer one came, or too many did; or what it is was gone back from.
            "superseded" | "busy" | "quarantined" => true,
            // Or all that were loading it ended, where few ran at that time: one by a fault, or two.
            "crash" => {
                let (crashes, deaths) = (self.crashes_over, self.deaths_over);
                let checker = now.checkers_killed != self.checkers_killed;
                checker || now.crashes > crashes || now.deaths - deaths >= LOADS
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About = About { model: "m", route: "/embed", short: false };

    #[test]
    fn a_request_may_fail_only_for_what_happened_while_it_was_under_way() {
        let quiet = Marks::default();
        for status in [200, 400, 404, 429, 500, 503, 504] {
            assert_eq!(quiet.excuse(&quiet, ABOUT, status), None, "{status}");
        }
        let mut stormy = quiet.clone();
        stormy.storm_begins("m");
        let mut after = stormy.clone();
        after.storm_ends("m");
        assert_eq!(quiet.excuse(&stormy, ABOUT, 429), Some("storm"));
        assert_eq!(stormy.excuse(&after, ABOUT, 429), Some("storm"));
        assert_eq!(quiet.excuse(&after, ABOUT, 429), Some("storm"));
        assert_eq!(after.excuse(&after, ABOUT, 429), None);
        assert_eq!(quiet.excuse(&stormy, About { model: "other", ..ABOUT }, 429), None);
        assert_eq!(quiet.excuse(&stormy, ABOUT, 503), None);

        let short = About { short: true, ..ABOUT };
        assert_eq!(quiet.excuse(&quiet, short, 504), Some("own deadline"));
        let crashed = |crashes, deaths| Marks { crashes, deaths, ..Marks::default() };
        assert!(quiet.excuse(&crashed(2, 2), ABOUT, 500).is_some());
        assert!(quiet.excuse(&crashed(0, 5), ABOUT, 500).is_some());
        assert!(quiet.excuse(&crashed(1, 4), ABOUT, 500).is_none());
    }

    #[test]
    fn a_good_update_is_refused_only_for_what_others_did() {
        let (quiet, killed) = (Marks::default(), Marks { checkers_killed: 1, ..Marks::default() });
        assert!(quiet.may_refuse(&quiet, "superseded"));
        assert!(quiet.may_refuse(&killed, "crash"));
        let ended = |crashes, deaths| Marks { crashes, deaths, ..Marks::default() };
        assert!(quiet.may_refuse(&ended(1, 1), "crash"));
        assert!(quiet.may_refuse(&ended(0, 2), "crash"));
        assert!(!quiet.may_refuse(&ended(0, 1), "crash"));
        assert!(ended(1, 1).may_refuse(&ended(1, 1), "crash"), "nobody knew of it yet");
        let known = Marks { crashes_over: 1, deaths_over: 1, ..ended(1, 1) };
        assert!(!known.may_refuse(&known, "crash"));
        assert!(!known.may_refuse(&Marks { deaths: 2, ..known.clone() }, "crash"));
        for kind in ["crash", "load", "contract", "timeout", "internal", "space"] {
            assert!(!killed.may_refuse(&killed, kind), "{kind}");
        }
    }
}
