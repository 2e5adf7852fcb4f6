//! Carries out the scheduled faults.

use std::{sync::Arc, time::Duration};

use e2e::{
    processes::{self, Process, Signal},
    random::Random,
};

use crate::{
    misbehaving,
    models::{self, MODELS},
    schedule::Fault,
    updates,
    world::World,
};

/// A worker exits within this time after a fatal signal; it may be stopped for a while.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The supervisor has noticed an exit by then and sends the worker nothing more.
const EXIT_NOTICED_AFTER: Duration = Duration::from_millis(200);
/// The server replaces a stopped worker after two seconds.
const REPLACEMENT_TIMEOUT: Duration = Duration::from_secs(20);

/// Carries out one fault and waits for its end.
pub(crate) async fn cause(world: Arc<World>, fault: Fault) {
    world.note(&format!("{fault:?}"));
    *world.ledger().faults.entry(fault.name()).or_default() += 1;
    match fault {
        Fault::Kill { worker } => {
            send_fatal_signal(&world, pick_long_running(&world, worker).await, Signal::SIGKILL)
                .await
        }
        Fault::KillAny { worker } => {
            send_fatal_signal(&world, any(&world, worker).await, Signal::SIGKILL).await;
        }
        Fault::Crash { worker } => {
            send_fatal_signal(&world, pick_long_running(&world, worker).await, Signal::SIGSEGV)
                .await;
        }
        Fault::Stop { worker, millis } => stop(&world, worker, Duration::from_millis(millis)).await,
        Fault::KillChecker => kill_checkers(&world),
        Fault::Storm { clients } => misbehaving::storm(&world, clients).await,
        Fault::Disconnects { clients, millis } => {
            misbehaving::disconnects(&world, clients, millis).await;
        }
        Fault::SlowReaders { clients } => misbehaving::slow_readers(&world, clients).await,
        Fault::BadInput { requests, seed } => {
            misbehaving::bad_input(&world, requests, &mut Random::new(seed)).await;
        }
        Fault::LargeBodies { requests, mebibytes } => {
            misbehaving::large_bodies(&world, requests, mebibytes).await;
        }
        Fault::SlowCandidate { millis } => {
            let kill = async {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                kill_checkers(&world);
            };
            tokio::join!(updates::slow(&world), kill);
        }
        Fault::Hangup { model, to } => hangup(&world, model, to).await,
        update => updates::cause(&world, update).await,
    }
}

/// Sends a fatal signal.
async fn send_fatal_signal(world: &World, victim: Option<Worker>, signal: Signal) {
    let Some((id, process)) = victim else { return };
    {
        let mut ledger = world.ledger();
        // A stopped process may not have died of the previous signal yet.
        if !process.runs() || !ledger.signalled.insert(process) {
            return;
        }
        let now = world.now();
        ledger.note(now, &format!("{signal} to worker {id}, {process:?}"));
        ledger.event_counts().deaths += 1;
        if signal == Signal::SIGKILL {
            ledger.kills += 1;
        } else {
            ledger.crashes += 1;
            ledger.event_counts().crashes += 1;
        }
    }
    // The first SIGSEGV runs Rust's stack overflow handler. It finds no overflow and removes
    // itself, so that the next fault is fatal.
    let end = world.now() + EXIT_TIMEOUT;
    while process.runs() && world.now() < end {
        process.signal(signal);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if process.runs() {
        return world.violated(&format!("worker {id}, {process:?}, survived {signal}"));
    }
    tokio::time::sleep(EXIT_NOTICED_AFTER).await;
    let mut ledger = world.ledger();
    ledger.event_counts().deaths_noticed += 1;
    ledger.event_counts().crashes_noticed += u64::from(signal != Signal::SIGKILL);
}

/// Stops a worker. Resumes it after the pause unless the server should detect the hang.
async fn stop(world: &World, pick: usize, pause: Duration) {
    let Some((id, process)) = any(world, pick).await else { return };
    let for_good = !world.options.no_hang && pause.as_millis().is_multiple_of(2);
    {
        let mut ledger = world.ledger();
        // Any other signal sent while it is stopped would come too late.
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
        // It may have been stopped for good in the meantime.
        if !world.ledger().stopped.contains(&process) {
            process.signal(Signal::SIGCONT);
        }
        return;
    }
    let end = world.now() + REPLACEMENT_TIMEOUT;
    while process.runs() && world.now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if process.runs() {
        world.violated(&format!("worker {id}, {process:?}, is stopped and was not replaced"));
    }
}

/// A worker's id and process.
type Worker = (u64, Process);

/// Returns the workers that have a process, the oldest first.
async fn workers(world: &World) -> Vec<Worker> {
    let workers = world.control.status().await.workers.into_iter();
    let mut running: Vec<Worker> =
        workers.filter_map(|worker| Some((worker.id, Process::find(worker.pid?)?))).collect();
    running.sort_by_key(|(_, process)| process.started());
    running
}

async fn any(world: &World, pick: usize) -> Option<Worker> {
    let workers = workers(world).await;
    workers.get(pick % workers.len().max(1)).copied()
}

/// Picks one of the oldest quarter.
async fn pick_long_running(world: &World, pick: usize) -> Option<Worker> {
    let workers = workers(world).await;
    workers.get(pick % (workers.len() / 4).max(1)).copied()
}

fn kill_checkers(world: &World) {
    for process in processes::mentioning(&world.server.home().state()) {
        if processes::command_line(process.pid).contains("worker check ") {
            world.ledger().event_counts().checkers_killed += 1;
            process.signal(Signal::SIGKILL);
        }
    }
}

/// Repoints a model's source and sends SIGHUP, which makes the server reread all sources. Without a
/// content, points it at a missing path and back.
async fn hangup(world: &World, model: usize, to: Option<models::Content>) {
    let model = MODELS[model % MODELS.len()];
    let home = world.server.home();
    let source = model.source(home);
    match to {
        Some(content) => models::repoint(&source, &model.directory(content)),
        None => models::repoint(&source, &home.models().join("nowhere")),
    }
    let now = world.now();
    world.ledger().event_counts().hangup(now);
    world.server.signal(Signal::SIGHUP);
    if to.is_none() {
        tokio::time::sleep(Duration::from_millis(300)).await;
        models::repoint(&source, &model.directory(models::Content::A));
    }
}
