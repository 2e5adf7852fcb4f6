//! The steps of a run with `--search`, drawn from the seed.

use std::time::Duration;

use e2e::random::Random;

use crate::models::Content;

/// A kill comes at most this long after the change that it disturbs.
const DELAY_MILLIS_MAX: u64 = 5000;
/// The pause after a change: from a moment to more than the probation.
const PAUSE_MILLIS_MAX: u64 = 4000;

/// A change of the model with what disturbs it, then another fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub change: Change,
    /// What is killed during the change, and how long after its start.
    pub during: Option<(Victim, Duration)>,
    /// What is killed after it.
    pub after: Option<Victim>,
    pub pause: Duration,
}

/// A change of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// To one of the two versions that recur, or to one that was never served.
    Update { to: Content, fresh: bool },
    /// To the version before.
    Rollback,
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Victim {
    Index,
    /// The worker with this number, modulo how many there are.
    Worker(usize),
    Supervisor,
}

impl Victim {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Worker(_) => "workers",
            Self::Supervisor => "supervisor",
        }
    }
}

/// Returns the steps of a seed. More steps begin with the same ones.
pub(super) fn draw(seed: u64, count: usize) -> Vec<Step> {
    let mut random = Random::new(seed);
    let mut serving = Content::A;
    (0..count)
        .map(|number| {
            // There is nothing to roll back to at first.
            let change = if number > 0 && random.below(4) == 0 {
                Change::Rollback
            } else {
                // Mostly to the other content, which a rollback then leaves again.
                let same = random.below(5) == 0 && number > 0;
                serving = if same { serving } else { other(serving) };
                Change::Update { to: serving, fresh: random.below(3) == 0 }
            };
            let delay = Duration::from_millis(random.below(DELAY_MILLIS_MAX));
            let during = victim(&mut random, 3).map(|victim| (victim, delay));
            let after = victim(&mut random, 2);
            let pause = Duration::from_millis(random.below(PAUSE_MILLIS_MAX));
            Step { change, during, after, pause }
        })
        .collect()
}

fn other(content: Content) -> Content {
    match content {
        Content::A => Content::B,
        Content::B => Content::A,
    }
}

/// Returns something to kill, except once in `times`.
fn victim(random: &mut Random, times: u64) -> Option<Victim> {
    let (none, worker) = (random.below(times) == 0, random.below_len(64));
    let victim = match random.below(5) {
        0..2 => Victim::Index,
        2..4 => Victim::Worker(worker),
        _ => Victim::Supervisor,
    };
    (!none).then_some(victim)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_determines_the_steps_and_more_begin_with_the_same() {
        let (short, long) = (draw(3, 10), draw(3, 40));
        assert_eq!(short[..], long[..10]);
        assert_ne!(short, draw(4, 10));
    }

    #[test]
    fn twenty_steps_have_every_change_and_every_victim() {
        let steps = draw(1, 20);
        let victims: BTreeSet<&str> = steps
            .iter()
            .flat_map(|step| step.during.map(|(victim, _)| victim).into_iter().chain(step.after))
            .map(Victim::name)
            .collect();
        assert_eq!(victims.len(), 3, "{victims:?}");
        let rollbacks = steps.iter().filter(|step| step.change == Change::Rollback).count();
        assert!((2..10).contains(&rollbacks), "{rollbacks}");
        let fresh =
            steps.iter().filter(|step| matches!(step.change, Change::Update { fresh: true, .. }));
        assert!(fresh.count() >= 2);
    }
}
