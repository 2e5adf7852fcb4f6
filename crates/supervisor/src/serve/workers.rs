//! Creates the workers and the limits that depend on their number. Called by [`start`](super::start).

use std::time::Instant;

use tokio::sync::mpsc;

use crate::{config::Config, process::machine};
use onnxd_engine::{
    dispatch::{Event, actor::worker::Worker, policy::session::Session},
    models::update::checker::CheckLimits,
    pool::{executable::WorkerExecutable, oom::OomKills, process_monitor::ProcessMonitor},
    tasks::EssentialTasks,
};
use onnxd_proto::exit::Failure;

/// Returns the number of workers.
pub(super) fn worker_count(config: &Config) -> Result<usize, Failure> {
    config.workers.map_or_else(machine::default_workers, |count| Ok(count.get()))
}

/// Returns the CPU of each worker.
pub(super) fn worker_cpus(config: &Config) -> Result<Vec<u16>, Failure> {
    let cpus = machine::usable_cpus()?;
    Ok(cpus.iter().copied().cycle().take(worker_count(config)?).collect())
}

/// Returns the limits of a check. The longest text must fit the memory of each worker.
pub(super) fn check_limits(config: &Config) -> Result<CheckLimits, Failure> {
    let workers = worker_count(config)?;
    let memory_bytes = machine::check_memory_bytes(config.check_memory_bytes);
    Ok(CheckLimits { memory_bytes, worker_bytes: machine::worker_share(workers), ..config.check })
}

/// Creates the serving workers. Their processes start later.
pub(super) fn workers(
    config: &Config,
    worker_files: &(WorkerExecutable, OomKills),
    models: usize,
    (events, tasks): (&mpsc::Sender<Event>, &EssentialTasks),
) -> Result<Vec<Worker>, Failure> {
    let cpus = worker_cpus(config)?;
    let count = cpus.len();
    let mut workers = Vec::with_capacity(count);
    for (id, cpu) in cpus.into_iter().enumerate() {
        let guard = tasks.guard(format!("monitor of worker {id}"));
        let event = move |worker, epoch, report| {
            // Captured, so that it lives as long as the thread.
            let _ = &guard;
            Event::ProcessReported(worker, epoch, report)
        };
        let monitor =
            ProcessMonitor::spawn(id, cpu, worker_files.clone(), events.clone(), event)
                .map_err(|error| Failure::internal(format!("cannot start a thread: {error}")))?;
        let session = Session::new(Instant::now(), models, config.supervision.restarts_max);
        workers.push(Worker::new(monitor, cpu, session));
    }
    // A lone request leaves the other workers idle, so only the first worker needs helper CPUs.
    let usable = machine::usable_cpus()?;
    workers[0].helper_cpus = usable.into_iter().take(count.min(config.idle_cpus)).skip(1).collect();
    Ok(workers)
}
