//! Loading ahead in an [`UpdateMachine`]: one worker after the other, and what becomes of those
//! that do not answer.

use std::{collections::VecDeque, time::Instant};

use onnxd_proto::domain::RefusalKind;

use crate::models::machine::{
    Left, Loading, Phase, Prepared, Running, Update, UpdateMachine,
    events::{Action, Cause, Payload},
    phase::LoadedSoFar,
};
use crate::pool::WorkerId;

/// Workers that are still to be asked, and how the others have fared.
struct Rest {
    workers: VecDeque<WorkerId>,
    of: usize,
    so_far: LoadedSoFar,
}

impl<P: Payload> UpdateMachine<P> {
    /// These workers serve: the first is asked to load.
    pub(super) fn load_all(&mut self, now: Instant, workers: Vec<WorkerId>) {
        let Some(Running { update, phase: Phase::AskingWorkers(prepared) }) =
            self.take_running(|phase| matches!(phase, Phase::AskingWorkers(_)))
        else {
            return;
        };
        let of = workers.len();
        let rest = Rest { workers: workers.into(), of, so_far: LoadedSoFar::default() };
        self.load_next(now, update, prepared, rest);
    }

    /// Asks the first of the rest to load, or goes on when all have been asked.
    fn load_next(&mut self, now: Instant, update: Update<P>, prepared: Prepared<P>, rest: Rest) {
        let Rest { workers: mut rest, of, so_far } = rest;
        let Some(worker) = rest.pop_front() else {
            return match so_far.blames() {
                // Committed, it would end them again and again, and nobody would serve.
                Some(ends) => {
                    let message = format!("workers ended while they loaded it: all {ends}");
                    let refusal = RefusalKind::Crash.because(message);
                    self.refuse(now, update, Left::after(of > 0), &refusal);
                }
                None => self.propose(now, update, prepared, of > 0),
            };
        };
        self.actions.push(Action::LoadAhead(worker, prepared.version.clone()));
        let deadline = now + self.times.load_ahead;
        let loading = Loading { prepared, worker, deadline, rest, of, so_far };
        self.running = Some(Running { update, phase: Phase::Loading(loading) });
    }

    /// Goes on without the worker that was asked; `count` says how it fared.
    fn load_on(&mut self, now: Instant, count: impl FnOnce(&mut LoadedSoFar)) {
        let Some(Running { update, phase: Phase::Loading(loading) }) =
            self.take_running(|phase| matches!(phase, Phase::Loading(_)))
        else {
            return;
        };
        let Loading { prepared, rest: workers, of, mut so_far, .. } = loading;
        count(&mut so_far);
        self.load_next(now, update, prepared, Rest { workers, of, so_far });
    }

    /// What runs, while it loads ahead.
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
        let (caller, done, of) = (update.caller(), loading.so_far.loaded + 1, loading.of);
        match result {
            Ok(()) => {
                if let Some(caller) = caller {
                    self.actions.push(Action::Loaded { caller, worker, done, of });
                }
                self.load_on(now, |so_far| so_far.loaded += 1);
            }
            Err(reason) => {
                let message = format!("worker {worker} cannot load the checked version: {reason}");
                self.give_up(now, &RefusalKind::Load.because(message));
            }
        }
    }

    /// A worker that ends while it loads is not waited for: its next process loads what is
    /// committed then. Its end, where it has come to one, may count against the version.
    pub(super) fn worker_gone(&mut self, now: Instant, worker: WorkerId, end: Option<Cause>) {
        let Some((_, loading)) = self.loading() else { return };
        loading.rest.retain(|other| *other != worker);
        if loading.worker == worker {
            self.load_on(now, |so_far| match end {
                Some(Cause::Fault) => so_far.ended += 1,
                Some(Cause::Killed) => so_far.killed += 1,
                None => {}
            });
        }
    }

    pub(super) fn ticked(&mut self, now: Instant) {
        if self.loading().is_some_and(|(_, loading)| loading.deadline <= now) {
            // It loads when it notices the commit; its requests wait, as they do with `lazy`.
            self.load_on(now, |_| {});
        }
    }
}
