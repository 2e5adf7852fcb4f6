//! Loading ahead in an [`UpdateMachine`]: one worker at a time. Handles workers that exit, are absent
//! or miss the deadline.

use std::{collections::VecDeque, time::Instant};

use onnxd_proto::domain::RefusalKind;

use crate::models::machine::{
    Leftovers, Loading, Phase, Prepared, Running, Update, UpdateMachine,
    events::{Action, Cause, Payload},
    phase::LoadTally,
};
use crate::pool::WorkerId;

/// Workers not asked yet, and the results of the others.
struct RemainingLoads {
    workers: VecDeque<WorkerId>,
    of: usize,
    tally: LoadTally,
}

impl<P: Payload> UpdateMachine<P> {
    /// Asks the first of the serving workers to load.
    pub(super) fn load_all(&mut self, now: Instant, workers: Vec<WorkerId>) {
        let Some(Running { update, phase: Phase::ListingWorkers(prepared) }) =
            self.take_running(|phase| matches!(phase, Phase::ListingWorkers(_)))
        else {
            return;
        };
        let of = workers.len();
        let rest = RemainingLoads { workers: workers.into(), of, tally: LoadTally::default() };
        self.load_next(now, update, prepared, rest);
    }

    /// Asks the next worker to load, or completes the indexes once all have been asked.
    fn load_next(
        &mut self,
        now: Instant,
        update: Update<P>,
        prepared: Prepared<P>,
        rest: RemainingLoads,
    ) {
        let RemainingLoads { workers: mut rest, of, tally } = rest;
        let Some(worker) = rest.pop_front() else {
            return match tally.blames() {
                // If committed, it would crash every worker again and again.
                Some(exits) => {
                    let message =
                        format!("every worker exited while loading the version: all {exits}");
                    let refusal = RefusalKind::Crash.because(message);
                    self.refuse(now, update, Leftovers::after(of > 0), &refusal);
                }
                None => self.index(now, update, prepared, of > 0),
            };
        };
        self.actions.push(Action::LoadAhead(worker, prepared.version.clone()));
        let deadline = now + self.times.load_ahead;
        let loading = Loading { prepared, worker, deadline, rest, of, tally };
        self.running = Some(Running { update, phase: Phase::Loading(loading) });
    }

    /// Moves on from the worker that was asked; `count` records its result.
    fn load_on(&mut self, now: Instant, count: impl FnOnce(&mut LoadTally)) {
        let Some(Running { update, phase: Phase::Loading(loading) }) =
            self.take_running(|phase| matches!(phase, Phase::Loading(_)))
        else {
            return;
        };
        let Loading { prepared, rest: workers, of, mut tally, .. } = loading;
        count(&mut tally);
        self.load_next(now, update, prepared, RemainingLoads { workers, of, tally });
    }

    /// Returns the running update if it is loading ahead.
    fn loading(&mut self) -> Option<(&Update<P>, &mut Loading<P>)> {
        match self.running.as_mut()? {
            Running { update, phase: Phase::Loading(loading) } => Some((update, loading)),
            _ => None,
        }
    }

    pub(super) fn loaded(
        &mut self,
        now: Instant,
        worker: WorkerId,
        version: &str,
        result: Result<(), String>,
    ) {
        let Some((update, loading)) = self.loading() else { return };
        if loading.worker != worker || loading.prepared.version.as_ref() != version {
            return;
        }
        let (caller, done, of) = (update.caller(), loading.tally.loaded + 1, loading.of);
        match result {
            Ok(()) => {
                if let Some(caller) = caller {
                    self.actions.push(Action::Loaded { caller, worker, done, of });
                }
                self.load_on(now, |tally| tally.loaded += 1);
            }
            Err(reason) => {
                let message = format!("worker {worker} cannot load the checked version: {reason}");
                self.abort(now, &RefusalKind::Load.because(message));
            }
        }
    }

    /// Moves on without a worker that exited or is absent: its next process loads what is committed
    /// by then. `end` is the cause of an exit, which may count against the version.
    pub(super) fn worker_gone(&mut self, now: Instant, worker: WorkerId, end: Option<Cause>) {
        let Some((_, loading)) = self.loading() else { return };
        loading.rest.retain(|other| *other != worker);
        if loading.worker == worker {
            self.load_on(now, |tally| match end {
                Some(Cause::Fault) => tally.crashed += 1,
                Some(Cause::Killed) => tally.killed += 1,
                None => {}
            });
        }
    }

    pub(super) fn ticked(&mut self, now: Instant) {
        if self.loading().is_some_and(|(_, loading)| loading.deadline <= now) {
            // The worker loads when it notices the commit; its requests wait, as with `lazy`.
            self.load_on(now, |_| {});
        }
    }
}
