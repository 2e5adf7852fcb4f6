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
