//! Schedules faults and updates. Pure: the seed and the rates determine the schedule, so that a
//! failure can be reproduced. Its consumer interprets the numbers, such as the index of a worker.
//!
//! To add a fault, add a variant of [`Fault`], its range in [`other`], and a branch in
//! [`faults`](crate::faults). A succession of the supervisor would belong there; it changes the pid
//! and resets all metrics.

use std::time::Duration;

use e2e::random::Random;

use crate::{
    models::{BAD, Content, MODELS},
    options::Options,
};

/// Two crashes during an item's lifetime make the server blame the item. Crashes are spaced this
/// far apart to avoid that.
const CRASH_SPACING: Duration = Duration::from_secs(3);
/// No event starts in this last part of a run, so that all of them end in time.
const LAST_PART: Duration = Duration::from_secs(2);

/// A fault or update. Numbers are indices, taken modulo the number of candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL to one of the longest-running workers; the server delays restarts of younger ones.
    Kill { worker: usize },
    /// SIGKILL to any worker, even one that was just restarted.
    KillAny { worker: usize },
    /// SIGSEGV to one of the longest-running workers.
    Crash { worker: usize },
    /// SIGSTOP to a worker, then SIGCONT after this time.
    Stop { worker: usize, millis: u64 },
    /// An update to a good candidate.
    Update { model: usize, to: Content, lazy: bool, fresh: bool },
    /// An update to a candidate that must be refused.
    Bad { model: usize, candidate: usize, lazy: bool },
    /// An update to a candidate whose check never ends; the checker is killed after this time.
    SlowCandidate { millis: u64 },
    /// SIGKILL to all running checkers.
    KillChecker,
    /// A rollback.
    Rollback { model: usize },
    /// A changed or broken source, followed by SIGHUP.
    Hangup { model: usize, to: Option<Content> },
    /// SIGHUP and an update call at the same time.
    HangupAndUpdate { model: usize, to: Content },
    /// Concurrent update calls.
    UpdateStorm { model: usize, calls: usize },
    /// An update from a link that is repointed meanwhile.
    Swapped { model: usize },
    /// An update from a directory whose files are replaced meanwhile.
    Torn { pause_millis: u64 },
    /// An unload, and a load after this time.
    Unload { millis: u64, to: Content },
    /// More requests than the queue holds.
    Storm { clients: usize },
    /// Clients that disconnect before their answer arrives.
    Disconnects { clients: usize, millis: u64 },
    /// Clients that read very slowly.
    SlowReaders { clients: usize },
    /// Invalid requests.
    BadInput { requests: usize, seed: u64 },
    /// Concurrent requests with large bodies.
    LargeBodies { requests: usize, mebibytes: usize },
}

type Draw = fn(&mut Random) -> Fault;

/// A scheduled fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub at: Duration,
    pub fault: Fault,
}

/// Returns the events of a run with these options, in order.
pub(crate) fn draw(options: &Options) -> Vec<Event> {
    let mut all = Vec::new();
    let kinds: [(f64, Draw); 3] =
        [(options.deaths, death), (options.updates, update), (options.others, other)];
    for (stream, (rate, fault)) in (1..).zip(kinds) {
        // Each kind has its own stream, so that one rate does not change what the others draw.
        let mut random = Random::new(options.seed.wrapping_mul(4).wrapping_add(stream));
        let mut at = Duration::ZERO;
        let next = || {
            // A rate of zero yields an infinite pause.
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

/// Replaces crashes that come too soon with kills.
fn space_crashes(events: &mut [Event]) {
    let mut next = Duration::ZERO;
    for event in events {
        if let Fault::Crash { worker } = event.fault {
            if event.at < next {
                event.fault = Fault::Kill { worker };
            } else {
                next = event.at + CRASH_SPACING;
            }
        }
    }
}

fn death(random: &mut Random) -> Fault {
    let worker = index(random);
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
        0..25 => Fault::Stop { worker: index(random), millis: 20 + random.below(900) },
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

fn index(random: &mut Random) -> usize {
    random.below_len(1 << 16)
}

fn content(random: &mut Random) -> Content {
    if flag(random, 2) { Content::A } else { Content::B }
}

/// Returns true once in `times` on average.
fn flag(random: &mut Random, times: u64) -> bool {
    random.below(times) == 0
}

impl Fault {
    /// Returns the name used in the summary.
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
    fn a_seed_determines_the_schedule() {
        let one = drawn("--seed 1 --minutes 5");
        assert_eq!(one, drawn("--seed 1 --minutes 5"));
        assert_ne!(one, drawn("--seed 2 --minutes 5"));
    }

    #[test]
    fn a_longer_run_starts_with_the_shorter_schedule() {
        let (short, long) = (drawn("--minutes 2"), drawn("--minutes 20"));
        assert_eq!(short[..], long[..short.len()]);
    }

    #[test]
    fn events_occur_at_the_requested_rates() {
        let events = drawn("--minutes 20 --deaths 1 --updates 2 --others 0");
        let deaths =
            |event: &&Event| matches!(event.fault.name(), "SIGKILL" | "SIGKILL to any" | "SIGSEGV");
        let deaths = events.iter().filter(deaths).count();
        assert!((1000..1400).contains(&deaths), "{deaths}");
        let updates = events.len() - deaths;
        assert!((2100..2700).contains(&updates), "{updates}");
    }

    #[test]
    fn twenty_minutes_contain_every_kind_of_fault() {
        let events = drawn("--minutes 20");
        let names: BTreeSet<&str> = events.iter().map(|event| event.fault.name()).collect();
        assert_eq!(names.len(), 22, "{names:?}");
        assert!(events.is_sorted_by_key(|event| event.at));
    }

    #[test]
    fn crashes_far_apart_do_not_blame_an_input() {
        let events = drawn("--minutes 20 --deaths 5");
        let crash = |event: &&Event| matches!(event.fault, Fault::Crash { .. });
        let at: Vec<Duration> = events.iter().filter(crash).map(|event| event.at).collect();
        assert!(at.len() > 100);
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= CRASH_SPACING));
    }
}
