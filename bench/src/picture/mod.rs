//! Draws request latency over time for two ways of updating: onnxd replaces the model while it
//! serves, or the same server is stopped and started with the other model. Load, models, update
//! times and executables are the same in both runs.
//!
//! [`clients`] send the requests, [`bins`] summarizes what they saw, [`axis`] chooses scales,
//! and [`draw`] writes the images.

mod axis;
mod bins;
mod clients;
mod draw;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use e2e::{fixtures, home::Home, launch::free_address, processes::Signal, server::Server};
use tokio::time;

use crate::{
    control::Load,
    options::PictureOptions,
    picture::{
        bins::{Bin, Summary},
        clients::{Clients, Sample},
        draw::{Panel, Picture},
    },
    report::{Table, say},
    stats::ms,
    subject::{Pair, Subject},
    texts::Texts,
};

/// Load before each run; its samples are discarded.
const WARM_UP: Duration = Duration::from_secs(3);
/// Interval between checks whether a stopped server has exited.
const EXIT_POLL: Duration = Duration::from_millis(5);

pub(crate) async fn run(options: &PictureOptions, workers: usize) -> Result<(), String> {
    let subject = Subject::start(Pair::minilm(), workers, options.seed).await?;
    subject.settle().await?;
    let (texts, pair) = (Arc::clone(&subject.texts), subject.pair.clone());
    let panels = [
        panel("onnxd update", &update(subject, options).await?, options),
        panel("Stop and restart", &restart(pair, &texts, workers, options).await?, options),
    ];
    print(&panels);
    let picture = Picture {
        length: options.length(),
        period: options.period(),
        updates: options.update_times(),
        clients: options.clients,
        workers,
        panels,
    };
    let default = || fixtures::workspace().join("docs/images");
    let directory = options.output.clone().unwrap_or_else(default);
    for path in draw::write(&picture, &directory)? {
        say(&format!("wrote {}", path.display()));
    }
    Ok(())
}

fn panel(title: &'static str, samples: &[Sample], options: &PictureOptions) -> Panel {
    Panel { title, summary: Summary::of(samples), bins: Bin::all(samples, options.length()) }
}

fn print(panels: &[Panel]) {
    let mut table = Table::new("");
    for Panel { title, summary, .. } in panels {
        let counts =
            [("requests", summary.requests.to_string()), ("failed", summary.failed.to_string())];
        let latencies = [
            ("p50 ms", ms(summary.p50)),
            ("p99 ms", ms(summary.p99)),
            ("longest ms", ms(summary.longest)),
        ];
        table.row(*title, counts.into_iter().chain(latencies));
    }
    table.print();
    say("latencies are those of answered requests");
}

/// Replaces the model while the server runs.
async fn update(mut subject: Subject, options: &PictureOptions) -> Result<Vec<Sample>, String> {
    let (address, texts) = (subject.server.address(), Arc::clone(&subject.texts));
    start_clients(address, &texts, options, WARM_UP).finish().await?;
    let clients = start_clients(address, &texts, options, options.length());
    for at in options.update_times() {
        time::sleep_until((clients.begin() + at).into()).await;
        subject.update(Load::Ahead).await?;
    }
    let samples = clients.finish().await?;
    subject.server.stop().await;
    Ok(samples)
}

/// Stops the server and starts it with the other model.
async fn restart(
    pair: Pair,
    texts: &Arc<Texts>,
    workers: usize,
    options: &PictureOptions,
) -> Result<Vec<Sample>, String> {
    let mut service = Service::start(pair, workers).await?;
    // Serve each model once first: as in the other run, both are then stored in compiled form.
    for _ in 0..2 {
        service.restart().await;
        service.ready().await?;
    }
    start_clients(service.address, texts, options, WARM_UP).finish().await?;
    let clients = start_clients(service.address, texts, options, options.length());
    for at in options.update_times() {
        time::sleep_until((clients.begin() + at).into()).await;
        service.restart().await;
    }
    let samples = clients.finish().await?;
    service.ready().await?;
    service.server.stop().await;
    Ok(samples)
}

fn start_clients(
    address: SocketAddr,
    texts: &Arc<Texts>,
    options: &PictureOptions,
    length: Duration,
) -> Clients {
    Clients::start(address, texts, options.clients, length, options.seed)
}

/// A server that restarts to update.
struct Service {
    server: Server,
    address: SocketAddr,
    home: Arc<Home>,
    /// The model being served comes first.
    pair: Pair,
    workers: usize,
}

impl Service {
    async fn start(pair: Pair, workers: usize) -> Result<Self, String> {
        let (home, address) = (Arc::new(Home::new()), free_address());
        let server = pair.builder(workers).home(&home).spawn_at(address);
        let mut service = Self { server, address, home, pair, workers };
        service.ready().await?;
        Ok(service)
    }

    /// Waits until the server is ready.
    async fn ready(&mut self) -> Result<(), String> {
        self.server.ready().await.map_err(|exited| exited.show("onnxd serve"))
    }

    /// Sends SIGTERM, waits for the exit, and starts the server with the other model. Returns
    /// without waiting until the new server is ready.
    async fn restart(&mut self) {
        self.server.signal(Signal::SIGTERM);
        while self.server.runs() {
            time::sleep(EXIT_POLL).await;
        }
        self.pair.directories.reverse();
        let builder = self.pair.builder(self.workers).home(&self.home);
        self.server = builder.spawn_at(self.address);
    }
}
