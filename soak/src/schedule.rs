//! What is done to the server, and when. Pure: the seed and the rates determine all of it, so that a
//! failure can be met again. What a number means, such as which worker is the third, is for whoever
//! follows the schedule.
//!
//! One more fault is one more variant of [`Fault`], its place in [`other`], and a branch in
//! [`faults`](crate::faults); a succession of the supervisor, which changes its pid and begins all
//! metrics anew, would belong there.

use std::time::Duration;

use e2e::random::Random;

use crate::{
    models::{BAD, Content, MODELS},
    options::Options,
};

/// Two faults of their own within an item's life accuse the item, so those that look like faults of
/// their own are this far apart.
const CRASHES_APART: Duration = Duration::from_secs(3);
/// Nothing begins in this last part of a run, so that all of it is over when it ends.
const LAST_PART: Duration = Duration::from_secs(2);

/// Something that happens to the server. Numbers are places, to be taken modulo what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// One of the workers that run longest gets SIGKILL: the server lets the others wait before it
    /// starts them again.
    Kill { worker: usize },
    /// Any worker gets SIGKILL, also one that has just been started again.
    KillAny { worker: usize },
    /// One of the workers that run longest gets SIGSEGV.
    Crash { worker: usize },
    /// A worker gets SIGSTOP, and SIGCONT after this time.
    Stop { worker: usize, millis: u64 },
    /// A model is updated.
    Update { model: usize, to: Content, lazy: bool, fresh: bool },
    /// A model is updated to what must not serve.
    Bad { model: usize, candidate: usize, lazy: bool },
    /// A candidate that takes forever, whose checker is killed after this time.
    SlowCandidate { millis: u64 },
    /// A checker is killed, whosever it is.
    KillChecker,
    /// A model goes back.
    Rollback { model: usize },
    /// The source of a model is changed, or broken, and all are read again.
    Hangup { model: usize, to: Option<Content> },
    /// SIGHUP and a call at the same time.
    HangupAndUpdate { model: usize, to: Content },
    /// As many updates as can be called at once.
    UpdateStorm { model: usize, calls: usize },
    /// An update from a link that is pointed elsewhere meanwhile.
    Swapped { model: usize },
    /// An update from a directory whose files are replaced meanwhile.
    Torn { pause_millis: u64 },
    /// A model is unloaded and comes again after this time.
    Unload { millis: u64, to: Content },
    /// More requests than may wait.
    Storm { clients: usize },
    /// Clients that leave before they are answered.
    Disconnects { clients: usize, millis: u64 },
    /// Clients that hardly read.
    SlowReaders { clients: usize },
    /// Requests that are wrong.
    BadInput { requests: usize, seed: u64 },
    /// Requests with large bodies at the same time.
    LargeBodies { requests: usize, mebibytes: usize },
}

type Draw = fn(&mut Random) -> Fault;

/// A fault at its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub at: Duration,
    pub fault: Fault,
}

/// All that happens in a run with these options, in order.
pub(crate) fn draw(options: &Options) -> Vec<Event> {
    let mut all = Vec::new();
    let kinds: [(f64, Draw); 3] =
        [(options.deaths, death), (options.updates, update), (options.others, other)];
    for (place, (rate, fault)) in (1..).zip(kinds) {
        // One rate changes nothing about what another one draws.
        let mut random = Random::new(options.seed.wrapping_mul(4).wrapping_add(place));
        let mut at = Duration::ZERO;
        let next = || {
            // At no rate it never comes.
            let pause = Duration::try_from_secs_f64(random.exponential() / rate).ok()?;
            at = at.checked_add(pause)?;
            let fault = fault(&mut random);
            (at + LAST_PART <= options.length()).then_some(Event { at, fault })
        };
        all.extend(std::iter::from_fn(next));
    }
    all.sort_by_key(|event| event.at);
    space_crashes(&mut all);
    all
}

/// Makes crashes that come too soon kills.
fn space_crashes(events: &mut [Event]) {
    let mut next = Duration::ZERO;
    for event in events {
        if let Fault::Crash { worker } = event.fault {
            if event.at < next {
                event.fault = Fault::Kill { worker };
            } else {
                next = event.at + CRASHES_APART;
            }
        }
    }
}

fn death(random: &mut Random) -> Fault {
    let worker = place(random);
    match random.below(20) {
        0..4 => Fault::Crash { worker },
        4..6 => Fault::KillAny { worker },
        _ => Fault::Kill { worker },
    }
}

fn update(random: &mut Random) -> Fault {
    let (model, to, lazy) = (random.below_len(MODELS.len()), content(random), flag(random, 2));
    match random.below(100) {
        0..50 => Fault::Update { model, to, lazy, fresh: flag(random, 3) },
        50..66 => Fault::Bad { model, candidate: random.below_len(BAD.len()), lazy },
        66..78 => Fault::Rollback { model },
        78..84 => Fault::Hangup { model, to: Some(to).filter(|_| !flag(random, 4)) },
        84..88 => Fault::HangupAndUpdate { model, to },
        88..92 => Fault::Swapped { model },
        92..96 => Fault::Torn { pause_millis: random.below(5) },
        96..98 => Fault::SlowCandidate { millis: 200 + random.below(800) },
        _ => Fault::UpdateStorm { model, calls: 10 + random.below_len(30) },
    }
}

fn other(random: &mut Random) -> Fault {
    match random.below(100) {
        0..25 => Fault::Stop { worker: place(random), millis: 20 + random.below(900) },
        25..45 => Fault::Disconnects { clients: 1 + random.below_len(8), millis: random.below(30) },
        45..55 => Fault::SlowReaders { clients: 1 + random.below_len(4) },
        55..72 => Fault::BadInput { requests: 1 + random.below_len(8), seed: random.number() },
        72..80 => Fault::Unload { millis: 50 + random.below(500), to: content(random) },
        80..86 => Fault::LargeBodies {
            requests: 1 + random.below_len(3),
            mebibytes: 1 + random.below_len(8),
        },
        86..94 => Fault::KillChecker,
        _ => Fault::Storm { clients: 40 + random.below_len(24) },
    }
}

fn place(random: &mut Random) -> usize {
    random.below_len(1 << 16)
}

fn content(random: &mut Random) -> Content {
    if flag(random, 2) { Content::A } else { Content::B }
}

/// True once in `times`.
fn flag(random: &mut Random, times: u64) -> bool {
    random.below(times) == 0
}

impl Fault {
    /// What the summary calls it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "SIGKILL",
            Self::KillAny { .. } => "SIGKILL to any",
            Self::Crash { .. } => "SIGSEGV",
            Self::Stop { .. } => "SIGSTOP",
            Self::Update { lazy: false, .. } => "update ahead",
            Self::Update { lazy: true, .. } => "update lazy",
            Self::Bad { .. } => "bad update",
            Self::SlowCandidate { .. } => "slow candidate",
            Self::KillChecker => "checker killed",
            Self::Rollback { .. } => "rollback",
            Self::Hangup { to: Some(_), .. } => "SIGHUP",
            Self::Hangup { to: None, .. } => "SIGHUP to a broken source",
            Self::HangupAndUpdate { .. } => "SIGHUP and update",
            Self::UpdateStorm { .. } => "update storm",
            Self::Swapped { .. } => "link swapped",
            Self::Torn { .. } => "source rewritten",
            Self::Unload { .. } => "unload and load",
            Self::Storm { .. } => "overload",
            Self::Disconnects { .. } => "disconnects",
            Self::SlowReaders { .. } => "slow readers",
            Self::BadInput { .. } => "bad input",
            Self::LargeBodies { .. } => "large bodies",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;

    fn drawn(arguments: &str) -> Vec<Event> {
        draw(&Options::parse_from(format!("soak {arguments}").split_whitespace()))
    }

    #[test]
    fn a_seed_always_draws_the_same_and_another_one_draws_something_else() {
        let one = drawn("--seed 1 --minutes 5");
        assert_eq!(one, drawn("--seed 1 --minutes 5"));
        assert_ne!(one, drawn("--seed 2 --minutes 5"));
    }

    #[test]
    fn a_longer_run_begins_as_the_shorter_one_did() {
        let (short, long) = (drawn("--minutes 2"), drawn("--minutes 20"));
        assert_eq!(short[..], long[..short.len()]);
    }

    #[test]
    fn everything_happens_about_as_often_as_it_is_asked_for() {
        let events = drawn("--minutes 20 --deaths 1 --updates 2 --others 0");
        let deaths =
            |event: &&Event| matches!(event.fault.name(), "SIGKILL" | "SIGKILL to any" | "SIGSEGV");
        let deaths = events.iter().filter(deaths).count();
        assert!((1000..1400).contains(&deaths), "{deaths}");
        let updates = events.len() - deaths;
        assert!((2100..2700).contains(&updates), "{updates}");
    }

    #[test]
    fn twenty_minutes_have_every_kind_of_fault() {
        let events = drawn("--minutes 20");
        let names: BTreeSet<&str> = events.iter().map(|event| event.fault.name()).collect();
        assert_eq!(names.len(), 22, "{names:?}");
        assert!(events.is_sorted_by_key(|event| event.at));
    }

    #[test]
    fn workers_crash_too_far_apart_to_accuse_an_input() {
        let events = drawn("--minutes 20 --deaths 5");
        let crash = |event: &&Event| matches!(event.fault, Fault::Crash { .. });
        let at: Vec<Duration> = events.iter().filter(crash).map(|event| event.at).collect();
        assert!(at.len() > 100);
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= CRASHES_APART));
    }
}
