//! Loading ahead in a [`UpdateMachine`]: one worker after the other, and what becomes of those that do not
//! answer.

use std::{collections::VecDeque, time::Instant};

use onnxd_proto::domain::RefusalKind;

use crate::models::machine::{
    LoadedSoFar, Phase, UpdateMachine,
    events::{Action, Cause, Version},
};
use crate::pool::WorkerId;

impl UpdateMachine {
    /// Asks the first of `rest` to load, or goes on when all have been asked.
    pub(super) fn load_next(
        &mut self,
        now: Instant,
        mut rest: VecDeque<WorkerId>,
        so_far: LoadedSoFar,
    ) {
        let Some(running) = self.running.as_mut() else { return };
        let Some(worker) = rest.pop_front() else {
            return match so_far.blames() {
                // Committed, it would end them again and again, and nobody would serve.
                Some(ends) => {
                    let message = format!("workers ended while they loaded it: all {ends}");
                    self.refuse(now, &RefusalKind::Crash.because(message));
                }
                None => self.record(now),
            };
        };
        self.actions.push(Action::LoadAhead(worker, running.version.clone()));
        let deadline = now + self.times.load_ahead;
        running.phase = Phase::Loading { worker, deadline, rest, so_far };
    }

    pub(super) fn loaded(
        &mut self,
        now: Instant,
        worker: WorkerId,
        version: &Version,
        result: Result<(), String>,
    ) {
        let Some(running) = self.running.as_mut() else { return };
        let Phase::Loading { worker: asked, rest, so_far, .. } = &mut running.phase else { return };
        if *asked != worker || running.version != *version {
            return;
        }
        let (rest, mut so_far) = (std::mem::take(rest), *so_far);
        so_far.loaded += usize::from(result.is_ok());
        match result {
            Ok(()) => self.load_next(now, rest, so_far),
            Err(reason) => {
                let message = format!("worker {worker} cannot load the checked version: {reason}");
                self.refuse(now, &RefusalKind::Load.because(message));
            }
        }
    }

    /// A worker that ends while it loads is not waited for: its next process loads what is
    /// committed then. Its end, where it has come to one, may count against the version.
    pub(super) fn worker_gone(&mut self, now: Instant, worker: WorkerId, end: Option<Cause>) {
        let Some(running) = self.running.as_mut() else { return };
        let Phase::Loading { worker: asked, rest, so_far, .. } = &mut running.phase else { return };
        rest.retain(|other| *other != worker);
        if *asked == worker {
            match end {
                Some(Cause::Fault) => so_far.ended += 1,
                Some(Cause::Killed) => so_far.killed += 1,
                None => {}
            }
            let (rest, so_far) = (std::mem::take(rest), *so_far);
            self.load_next(now, rest, so_far);
        }
    }

    pub(super) fn ticked(&mut self, now: Instant) {
        let Some(running) = self.running.as_mut() else { return };
        let Phase::Loading { deadline, rest, so_far, .. } = &mut running.phase else { return };
        if *deadline <= now {
            // It loads when it notices the commit; its requests wait, as they do with `lazy`.
            let (rest, so_far) = (std::mem::take(rest), *so_far);
            self.load_next(now, rest, so_far);
        }
    }
}
