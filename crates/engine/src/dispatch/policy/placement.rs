//! Decides which workers may receive a group of a model, from what they serve and what they are
//! doing.

use onnxd_proto::{control_page::Slot, generation::Generation};

use crate::dispatch::{item::Priority, policy::session::Session, worker::State};
use crate::pool::WorkerId;

/// Returns the workers that may receive a group of a model now: the idle ones, or else those that
/// are nearly idle. A worker that failed to load the committed generation must not answer with an
/// older one while another worker can answer with the new one. Stopped workers receive work only if
/// all serving workers are stopped.
///
/// Background work goes only to idle workers, so that interactive work never waits behind more than
/// one group of it. It goes to no worker while idle CPUs help with an interactive item.
pub(crate) fn free<W: AsRef<Session>>(
    workers: &[W],
    slot: Slot,
    committed: Generation,
    priority: Priority,
) -> impl Iterator<Item = WorkerId> + '_ {
    let sessions = || workers.iter().map(AsRef::as_ref);
    let any_current = any_current(workers, slot, committed);
    let any_loaded = sessions().any(|worker| worker.serves() && worker.generation(slot) > 0);
    let any_running = sessions().any(Session::is_running);
    let allowed = move |worker: &Session| {
        let has_it = match any_current {
            true => !worker.failed_to_load(slot, committed),
            false => worker.generation(slot) > 0 || !any_loaded,
        };
        has_it && (worker.is_running() || !any_running)
    };
    let is_background = priority == Priority::Background;
    let any_boosted = is_background && sessions().any(|worker| worker.groups().is_boosted());
    let idle_only = is_background || sessions().any(|worker| worker.is_idle() && allowed(worker));
    let may_receive = move |worker: &Session| {
        let is_free = if idle_only { worker.is_idle() } else { worker.is_nearly_idle() };
        !any_boosted && is_free && allowed(worker)
    };
    (0..).zip(workers).filter(move |(_, worker)| may_receive(worker.as_ref())).map(|(id, _)| id)
}

/// Returns whether some worker has, or will have, the committed generation. If a worker that had it
/// is restarting, requests wait for it rather than fall back to an older generation.
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

/// Returns why no worker can answer for a model: every serving worker tried to load the committed
/// generation, failed, and has no older one. Workers that start or wait to be restarted say nothing
/// yet. A worker that has not tried yet loads it before the next request.
pub(crate) fn unloadable<W: AsRef<Session>>(
    workers: &[W],
    slot: Slot,
    committed: Generation,
) -> Option<&str> {
    let serving = || workers.iter().map(AsRef::as_ref).filter(|worker| worker.serves());
    let is_stuck =
        |worker: &Session| worker.generation(slot) == 0 && worker.failed_to_load(slot, committed);
    let reason = serving().find_map(|worker| worker.load_failure(slot, committed));
    reason.filter(|_| serving().all(is_stuck))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::dispatch::{
        policy::{
            groups::SentGroup,
            scheduler::Group,
            session::script::{serving, session, start},
        },
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
        worker.group_sent(&group, SentGroup { id: 1, wide, deadline: None, committed: 1 });
    }

    fn free_workers(
        workers: &[Session],
        committed: Generation,
        priority: Priority,
    ) -> Vec<WorkerId> {
        free(workers, 0, committed, priority).collect()
    }

    const INTERACTIVE: Priority = Priority::Interactive;
    const BACKGROUND: Priority = Priority::Background;

    #[test]
    fn background_work_goes_to_idle_workers_only() {
        let mut workers = workers();
        send(&mut workers[0], INTERACTIVE, false);
        assert_eq!(free_workers(&workers, 1, INTERACTIVE), [1, 2]);
        assert_eq!(free_workers(&workers, 1, BACKGROUND), [1, 2]);
        send(&mut workers[1], INTERACTIVE, false);
        send(&mut workers[2], BACKGROUND, false);
        assert_eq!(
            free_workers(&workers, 1, INTERACTIVE),
            [0, 1],
            "nothing queues behind background work"
        );
        assert!(free_workers(&workers, 1, BACKGROUND).is_empty());
    }

    #[test]
    fn no_background_work_starts_while_idle_cpus_help() {
        let mut workers = workers();
        send(&mut workers[0], INTERACTIVE, true);
        assert!(free_workers(&workers, 1, BACKGROUND).is_empty());
        assert_eq!(free_workers(&workers, 1, INTERACTIVE), [1, 2]);
    }

    #[test]
    fn stopped_workers_get_work_only_if_all_are_stopped() {
        let mut workers = workers();
        let now = Instant::now();
        workers[0].stopped(now);
        assert_eq!(free_workers(&workers, 1, INTERACTIVE), [1, 2]);
        workers.iter_mut().for_each(|worker| worker.stopped(now));
        assert_eq!(free_workers(&workers, 1, INTERACTIVE), [0, 1, 2]);
    }

    #[test]
    fn a_model_is_unloadable_if_all_serving_workers_failed() {
        let now = Instant::now();
        let fail = |worker: &mut Session| worker.load_failed(0, 1, "damaged".into());
        let mut workers = vec![serving(now, 9), serving(now, 9), session(now, 9)];
        assert_eq!(unloadable(&workers, 0, 1), None, "no worker has tried yet");
        fail(&mut workers[0]);
        assert_eq!(unloadable(&workers, 0, 1), None, "the other one has not tried yet");
        fail(&mut workers[1]);
        assert_eq!(unloadable(&workers, 0, 1), Some("damaged"), "the third one does not serve");
        assert_eq!(unloadable(&workers, 0, 2), None, "a new generation has not been tried");
        assert_eq!(unloadable(&workers, 0, 0), None, "unloaded");
        assert!(start(&mut workers[2], now));
        assert_eq!(unloadable(&workers, 0, 1), Some("damaged"), "a start changes nothing");
        fail(&mut workers[2]);
        workers[2].ready(now);
        assert_eq!(unloadable(&workers, 0, 1), Some("damaged"));
        let load = Load { generation: 1, ..Load::default() };
        workers[1].loaded(0, load).unwrap();
        assert_eq!(unloadable(&workers, 0, 1), None, "one has loaded it");
    }

    #[test]
    fn a_model_with_an_older_generation_is_not_unloadable() {
        let mut workers = workers();
        workers.iter_mut().for_each(|worker| worker.load_failed(0, 2, "damaged".into()));
        assert_eq!(unloadable(&workers, 0, 2), None);
    }

    #[test]
    fn a_worker_that_failed_to_load_is_the_last_choice() {
        let mut workers = workers();
        workers[0].load_failed(0, 2, String::new());
        assert_eq!(free_workers(&workers, 2, INTERACTIVE), [1, 2]);
        workers[1..].iter_mut().for_each(|worker| worker.load_failed(0, 2, String::new()));
        assert!(!any_current(&workers, 0, 2));
        assert_eq!(
            free_workers(&workers, 2, INTERACTIVE),
            [0, 1, 2],
            "all answer with the generation they have"
        );
    }
}
