//! Which workers may get a group of a model, by what they serve and what they do.

use onnxd_proto::{control_page::Slot, generation::Generation};

use crate::dispatch::{item::Priority, policy::session::Session, worker::State};
use crate::pool::WorkerId;

/// The workers that may get a group of a model now: the idle ones, or else those that soon are.
/// One that could not load what is committed must not answer with an older generation while
/// another can answer with the new one. Those that are stopped get work if all that serve are.
///
/// Background work goes to idle workers only, so that interactive work never waits behind more than
/// one group of it, and to none while idle workers' CPUs help with an interactive item.
pub(crate) fn free<W: AsRef<Session>>(
    workers: &[W],
    slot: Slot,
    committed: Generation,
    priority: Priority,
) -> impl Iterator<Item = WorkerId> + '_ {
    let sessions = || workers.iter().map(AsRef::as_ref);
    let any_current = any_current(workers, slot, committed);
    let any_loaded = sessions().any(|worker| worker.serves() && worker.generation(slot) > 0);
    let any_goes_on = sessions().any(Session::goes_on);
    let allowed = move |worker: &Session| {
        let has_it = match any_current {
            true => !worker.failed_to_load(slot, committed),
            false => worker.generation(slot) > 0 || !any_loaded,
        };
        has_it && (worker.goes_on() || !any_goes_on)
    };
    let is_background = priority == Priority::Background;
    let any_helps = is_background && sessions().any(|worker| worker.groups().are_helped());
    let idle_only = is_background || sessions().any(|worker| worker.is_idle() && allowed(worker));
    let may = move |worker: &Session| {
        let is_free = if idle_only { worker.is_idle() } else { worker.is_nearly_idle() };
        !any_helps && is_free && allowed(worker)
    };
    (0..).zip(workers).filter(move |(_, worker)| may(worker.as_ref())).map(|(id, _)| id)
}

/// Whether some worker has what is committed, or will have it: where one had it and was started
/// again, requests wait for it rather than go back to what was before.
pub(crate) fn any_current<W: AsRef<Session>>(
    workers: &[W],
    slot: Slot,
    committed: Generation,
) -> bool {
    let sessions = || workers.iter().map(AsRef::as_ref);
    let was_seen = sessions().any(|worker| worker.newest_seen(slot) >= committed);
    let comes_back = |worker: &Session| {
        matches!(worker.state(), State::Starting | State::Backoff) || worker.is_recycled()
    };
    sessions()
        .filter(|worker| !worker.failed_to_load(slot, committed))
        .any(|worker| worker.serves() || was_seen && comes_back(worker))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::dispatch::{
        policy::{groups::Sent, scheduler::Group, session::script::serving},
        worker::Load,
    };

    fn workers() -> Vec<Session> {
        let now = Instant::now();
        let mut workers: Vec<Session> = (0..3).map(|_| serving(now, 9)).collect();
        let load = Load { generation: 1, ..Load::default() };
        workers.iter_mut().for_each(|worker| worker.loaded(0, load).unwrap());
        workers
    }

    fn send(worker: &mut Session, priority: Priority, wide: bool) {
        let group = Group { slot: 0, priority, items: vec![1], micros: 1_000 };
        worker.group_sent(&group, Sent { id: 1, wide, deadline: None, committed: 1 });
    }

    fn of(workers: &[Session], committed: Generation, priority: Priority) -> Vec<WorkerId> {
        free(workers, 0, committed, priority).collect()
    }

    const INTERACTIVE: Priority = Priority::Interactive;
    const BACKGROUND: Priority = Priority::Background;

    #[test]
    fn idle_workers_are_first_and_background_work_waits_for_one() {
        let mut workers = workers();
        send(&mut workers[0], INTERACTIVE, false);
        assert_eq!(of(&workers, 1, INTERACTIVE), [1, 2]);
        assert_eq!(of(&workers, 1, BACKGROUND), [1, 2]);
        send(&mut workers[1], INTERACTIVE, false);
        send(&mut workers[2], BACKGROUND, false);
        assert_eq!(of(&workers, 1, INTERACTIVE), [0, 1], "nothing waits behind background work");
        assert!(of(&workers, 1, BACKGROUND).is_empty());
    }

    #[test]
    fn no_background_work_starts_while_idle_cpus_help() {
        let mut workers = workers();
        send(&mut workers[0], INTERACTIVE, true);
        assert!(of(&workers, 1, BACKGROUND).is_empty());
        assert_eq!(of(&workers, 1, INTERACTIVE), [1, 2]);
    }

    #[test]
    fn stopped_workers_get_work_only_if_all_are_stopped() {
        let mut workers = workers();
        let now = Instant::now();
        workers[0].stopped(now);
        assert_eq!(of(&workers, 1, INTERACTIVE), [1, 2]);
        workers.iter_mut().for_each(|worker| worker.stopped(now));
        assert_eq!(of(&workers, 1, INTERACTIVE), [0, 1, 2]);
    }

    #[test]
    fn a_worker_that_could_not_load_waits_for_the_others() {
        let mut workers = workers();
        workers[0].load_failed(0, 2);
        assert_eq!(of(&workers, 2, INTERACTIVE), [1, 2]);
        workers[1..].iter_mut().for_each(|worker| worker.load_failed(0, 2));
        assert!(!any_current(&workers, 0, 2));
        assert_eq!(of(&workers, 2, INTERACTIVE), [0, 1, 2], "all answer with what they have");
    }
}
