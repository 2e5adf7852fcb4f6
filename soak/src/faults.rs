//! Does what the schedule says.

use std::{sync::Arc, time::Duration};

use e2e::{
    processes::{self, Process, Signal},
    random::Random,
};

use crate::{
    models::{self, MODELS},
    rough,
    schedule::Fault,
    updates,
    world::World,
};

/// A worker that was given a deadly signal is gone by then; it may be stopped for a while.
const DIES_WITHIN: Duration = Duration::from_secs(10);
/// A worker that is gone is asked for nothing any more by then.
const HEARD_WITHIN: Duration = Duration::from_millis(200);
/// A stopped worker is waited for, for two seconds.
const REPLACED_WITHIN: Duration = Duration::from_secs(20);

/// Does one thing to its end.
pub(crate) async fn cause(world: Arc<World>, fault: Fault) {
    world.note(&format!("{fault:?}"));
    *world.ledger().faults.entry(fault.name()).or_default() += 1;
    match fault {
        Fault::Kill { worker } => deadly(&world, old(&world, worker).await, Signal::SIGKILL).await,
        Fault::KillAny { worker } => {
            deadly(&world, any(&world, worker).await, Signal::SIGKILL).await;
        }
        Fault::Crash { worker } => {
            deadly(&world, old(&world, worker).await, Signal::SIGSEGV).await;
        }
        Fault::Stop { worker, millis } => stop(&world, worker, Duration::from_millis(millis)).await,
        Fault::KillChecker => kill_checkers(&world),
        Fault::Storm { clients } => rough::storm(&world, clients).await,
        Fault::Disconnects { clients, millis } => {
            rough::disconnects(&world, clients, millis).await;
        }
        Fault::SlowReaders { clients } => rough::slow_readers(&world, clients).await,
        Fault::BadInput { requests, seed } => {
            rough::bad_input(&world, requests, &mut Random::new(seed)).await;
        }
        Fault::LargeBodies { requests, mebibytes } => {
            rough::large_bodies(&world, requests, mebibytes).await;
        }
        Fault::SlowCandidate { millis } => {
            let killing = async {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                kill_checkers(&world);
            };
            tokio::join!(updates::slow(&world), killing);
        }
        Fault::Hangup { model, to } => hangup(&world, model, to).await,
        update => updates::cause(&world, update).await,
    }
}

/// Sends a signal that a worker does not survive.
async fn deadly(world: &World, victim: Option<Worker>, signal: Signal) {
    let Some((id, process)) = victim else { return };
    {
        let mut ledger = world.ledger();
        // Stopped, it may not have died of the last one yet.
        if !process.runs() || !ledger.signalled.insert(process) {
            return;
        }
        let now = world.now();
        ledger.note(now, &format!("{signal} to worker {id}, {process:?}"));
        ledger.marks().deaths += 1;
        if signal == Signal::SIGKILL {
            ledger.kills += 1;
        } else {
            ledger.crashes += 1;
            ledger.marks().crashes += 1;
        }
    }
    // The first SIGSEGV finds the handler of Rust's own, which looks for a stack that has overflown,
    // finds none, and removes itself so that the fault happens again.
    let end = world.now() + DIES_WITHIN;
    while process.runs() && world.now() < end {
        process.signal(signal);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if process.runs() {
        return world.violated(&format!("worker {id}, {process:?}, survives {signal}"));
    }
    tokio::time::sleep(HEARD_WITHIN).await;
    let mut ledger = world.ledger();
    ledger.marks().deaths_over += 1;
    ledger.marks().crashes_over += u64::from(signal != Signal::SIGKILL);
}

/// Stops a worker, and has it go on, unless the server is to notice.
async fn stop(world: &World, place: usize, pause: Duration) {
    let Some((id, process)) = any(world, place).await else { return };
    let for_good = !world.options.no_hang && pause.as_millis().is_multiple_of(2);
    {
        let mut ledger = world.ledger();
        // Whatever else it is sent while it is stopped would come too late.
        if for_good && (!process.runs() || !ledger.signalled.insert(process)) {
            return;
        }
        let now = world.now();
        let how = if for_good { "for good" } else { "for a while" };
        ledger.note(now, &format!("SIGSTOP {how} to worker {id}, {process:?}"));
        ledger.stops += u64::from(!for_good);
        ledger.hangs += u64::from(for_good);
        if for_good {
            ledger.stopped.insert(process);
        }
    }
    process.signal(Signal::SIGSTOP);
    if !for_good {
        tokio::time::sleep(pause).await;
        // Meanwhile it may have been stopped for good.
        if !world.ledger().stopped.contains(&process) {
            process.signal(Signal::SIGCONT);
        }
        return;
    }
    let end = world.now() + REPLACED_WITHIN;
    while process.runs() && world.now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if process.runs() {
        world.violated(&format!("worker {id}, {process:?}, is stopped and nobody replaces it"));
    }
}

/// Its number, and its process.
type Worker = (u64, Process);

/// Those that have a process, the oldest first.
async fn workers(world: &World) -> Vec<Worker> {
    let workers = world.control.status().await.workers.into_iter();
    let mut running: Vec<Worker> =
        workers.filter_map(|worker| Some((worker.id, Process::find(worker.pid?)?))).collect();
    running.sort_by_key(|(_, process)| process.started());
    running
}

async fn any(world: &World, place: usize) -> Option<Worker> {
    let workers = workers(world).await;
    workers.get(place % workers.len().max(1)).copied()
}

/// One of the oldest quarter.
async fn old(world: &World, place: usize) -> Option<Worker> {
    let workers = workers(world).await;
    workers.get(place % (workers.len() / 4).max(1)).copied()
}

fn kill_checkers(world: &World) {
    for process in processes::mentioning(&world.server.home().state()) {
        if processes::command_line(process.pid).contains("worker check ") {
            world.ledger().marks().checkers_killed += 1;
            process.signal(Signal::SIGKILL);
        }
    }
}

/// Points a model's source elsewhere and has all sources read again. Without a content it is
/// pointed at nothing, and back.
async fn hangup(world: &World, model: usize, to: Option<models::Content>) {
    let model = MODELS[model % MODELS.len()];
    let home = world.server.home();
    let source = model.source(home);
    match to {
        Some(content) => models::point(&source, &model.directory(content)),
        None => models::point(&source, &home.models().join("nowhere")),
    }
    let now = world.now();
    world.ledger().marks().hangup(now);
    world.server.signal(Signal::SIGHUP);
    if to.is_none() {
        tokio::time::sleep(Duration::from_millis(300)).await;
        models::point(&source, &model.directory(models::Content::A));
    }
}
