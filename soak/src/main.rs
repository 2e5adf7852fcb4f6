//! `cargo xtask soak`: no guarantee breaks under faults, updates and load.
//!
//! - [`schedule`] draws events from the seed. [`faults`], [`updates`] and [`misbehaving`] inject them
//!   into the real executables ([`world`]), which serve [`models`] of all tasks.
//! - With `--sources`, [`uploads`] writes versions to sources that the server watches.
//! - [`clients`] send requests ([`probe`]) and report to the [`ledger`], which checks each answer
//!   immediately. [`rules`] decides which failures are excused. [`checks`] and [`resources`] look for
//!   leaks at the end.
//! - With `--search`, clients [`search`] in documents instead.
//! - With `--container`, the server runs with the limits of a [`container`].
//! - [`summary`] prints the result and saves a failed run.

#![allow(clippy::unwrap_used, reason = "a soak that meets the unexpected must fail")]

mod checks;
mod clients;
mod container;
mod faults;
mod latency;
mod ledger;
mod misbehaving;
mod models;
mod options;
mod probe;
mod resources;
mod rules;
mod schedule;
mod search;
mod summary;
mod updates;
mod uploads;
mod world;

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use tokio::task::{JoinHandle, JoinSet};

use crate::{
    checks::ServerCounters,
    clients::SteadyClient,
    options::Options,
    resources::{Resources, Samples},
    schedule::Event,
    summary::{FinalState, print_line},
    world::World,
};

/// Interval between progress lines.
const PROGRESS: Duration = Duration::from_secs(5);
/// Interval between samples of the server's resources.
const SAMPLE: Duration = Duration::from_secs(1);
/// Running faults end within this time after the last one starts.
const FAULTS_END_TIMEOUT: Duration = Duration::from_secs(200);
/// A run stops after this many violations: later ones follow from the first.
const VIOLATIONS_MAX: u64 = 20;

fn main() -> ExitCode {
    let options = Options::parse();
    if options.schedule && !options.search {
        schedule::draw(&options).iter().for_each(|event| print_line(&format!("{event:?}")));
        return ExitCode::SUCCESS;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("threads can be started");
    let run =
        async { if options.search { search::run(&options).await } else { run(&options).await } };
    match runtime.block_on(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print_line(&format!("soak: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Returns `false` if a guarantee was violated.
async fn run(options: &Options) -> Result<bool, String> {
    let schedule = schedule::draw(options);
    let (command, count) = (Options::command(), schedule.len());
    print_line(&format!("{command}: seed {}, {count} faults and updates", options.seed));
    let mut world = World::start(options).await?;
    world.server.settled().await;
    let before = Resources::now(&world.server);
    let counted = ServerCounters::now(&world).await?;
    world.start = std::time::Instant::now();
    let world = Arc::new(world);

    let mut clients = Vec::new();
    for number in 0..options.clients {
        clients.push(SteadyClient::start(&world, number).await);
    }
    let uploaded: &[_] = if options.sources { &uploads::UPLOADED } else { &[] };
    for model in uploaded {
        clients.push(tokio::spawn(uploads::run(Arc::clone(&world), *model)));
    }
    let watcher = tokio::spawn(watch(Arc::clone(&world)));
    let probes = options.container.then(|| tokio::spawn(container::probe(Arc::clone(&world))));
    follow(&world, &schedule).await;
    let took = world.now();
    // A lazily loaded generation reaches a worker with its next request, so clients go on until
    // every worker has had one.
    world.server.settled().await;
    world.stop();
    join(&world, clients).await;
    let samples = watcher.await.map_err(|error| error.to_string())?;
    let longest_probe = match probes {
        Some(probes) => Some(probes.await.map_err(|error| error.to_string())?),
        None => None,
    };
    print_line("clients stopped: waiting until the server is idle");
    let after = checks::wait_until_idle(&world, &before).await;
    let counted = checks::counts(&world, &counted).await;
    let restarts = counted.restarts.values().sum();
    summary::print(&world, &FinalState { took, samples, before, after, restarts, longest_probe });
    conclude(world, &schedule).await
}

/// Starts every event on time and waits until all have ended.
async fn follow(world: &Arc<World>, schedule: &[Event]) {
    let mut faults = JoinSet::new();
    for event in schedule {
        tokio::time::sleep(event.at.saturating_sub(world.now())).await;
        if world.ledger().violations_seen >= VIOLATIONS_MAX {
            print_line("too many violations: skipping the remaining events");
            break;
        }
        faults.spawn(faults::cause(Arc::clone(world), event.fault.clone()));
        while let Some(ended) = faults.try_join_next() {
            note(world, ended);
        }
    }
    if world.ledger().violations_seen < VIOLATIONS_MAX {
        tokio::time::sleep(world.options.length().saturating_sub(world.now())).await;
    }
    let ending = async {
        while let Some(ended) = faults.join_next().await {
            note(world, ended);
        }
    };
    if tokio::time::timeout(FAULTS_END_TIMEOUT, ending).await.is_err() {
        world.violated("a fault or an update did not end");
    }
}

fn note(world: &World, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        world.violated(&format!("a fault or an update failed: {error}"));
    }
}

async fn join(world: &World, clients: Vec<JoinHandle<()>>) {
    for client in clients {
        note(world, client.await);
    }
}

/// Samples the server's resources and prints progress until the run stops.
async fn watch(world: Arc<World>) -> Samples {
    let mut samples = Samples::default();
    let mut reported_at = Duration::ZERO;
    while !world.stops() {
        tokio::time::sleep(SAMPLE).await;
        samples.add(world.now(), Resources::now(&world.server));
        if world.now() - reported_at >= PROGRESS {
            reported_at = world.now();
            summary::progress(&world, &samples);
        }
    }
    samples
}

async fn conclude(world: Arc<World>, schedule: &[Event]) -> Result<bool, String> {
    let seed = world.options.seed;
    let sound = world.ledger().violations_seen == 0;
    let dumped = if sound { None } else { Some(summary::dump(&world, schedule)) };
    let ended = world.end().await;
    match dumped {
        None => ended.map(|()| true),
        Some(directory) => {
            let directory = directory.map_err(|error| error.to_string())?;
            print_line(&format!(
                "FAILED; seed, schedule and history are in {}",
                directory.display()
            ));
            print_line(&format!("reproduce with: {} (seed {seed})", Options::command()));
            ended.map(|()| false)
        }
    }
}
