//! `cargo xtask bench picture`: draws request latency over time for two ways of updating a model.
//! onnxd replaces it with `onnxd update`; a [`service`](crate::service) of the usual kind is stopped and started
//! again. Models, texts, load and update times are the same in both runs.
//!
//! [`clients`] send the requests, [`bins`] and [`updates`] evaluate them, [`axis`] chooses scales,
//! and [`draw`] writes the images, with the key from [`legend`].

mod axis;
mod bins;
mod clients;
mod draw;
mod legend;
mod theme;
mod updates;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use e2e::fixtures;
use tokio::time;

use crate::{
    control::Load,
    options::PictureOptions,
    picture::{
        bins::{Bin, Summary},
        clients::{Clients, Sample},
        draw::{Panel, Picture},
        updates::Update,
    },
    report::{Table, print_line},
    service::{Script, Service},
    stats::ms,
    subject::{CONTENTS, ModelPair, Subject},
    texts::Texts,
};

/// Load before each run; its samples are discarded.
const WARM_UP: Duration = Duration::from_secs(3);

/// What both servers update to.
struct Version {
    directory: PathBuf,
    content: &'static str,
}

/// What the clients recorded of one server.
struct Run {
    samples: Vec<Sample>,
    updates: Vec<Update>,
}

pub(crate) async fn run(options: &PictureOptions, workers: usize) -> Result<(), String> {
    let subject = Subject::start(ModelPair::minilm(), workers, options.seed).await?;
    subject.settle().await?;
    let (home, texts) = (Arc::clone(subject.server.home()), Arc::clone(&subject.texts));
    let initial = subject.pair.directories[1].clone();
    let versions = versions(&subject.pair, &home.models(), options.update_times().len());
    print_line("running onnxd");
    let updated = update(subject, &versions, options).await?;
    print_line("running the service that restarts");
    let restarted = restart(&initial, &versions, &texts, options).await?;
    let picture = Picture {
        length: options.length(),
        clients: options.clients,
        workers,
        panels: [
            panel("onnxd, updated while it serves", &updated, options),
            panel("FastAPI + ONNX Runtime, restarted", &restarted, options),
        ],
    };
    print(&picture.panels);
    let default = || fixtures::workspace().join("docs/images");
    for path in draw::write(&picture, &options.output.clone().unwrap_or_else(default))? {
        print_line(&format!("wrote {}", path.display()));
    }
    updates::check(&updated.updates, &updated.samples)?;
    updates::check(&restarted.updates, &restarted.samples)
}

/// Creates `count` versions that are new to the server. Their contents alternate, so that answers
/// reveal whether an update has taken place.
fn versions(pair: &ModelPair, models: &Path, count: usize) -> Vec<Version> {
    let version = |number: usize| {
        let (name, which) = (format!("update-{number}"), number % 2);
        let directory = models.join(&name);
        fixtures::variant(&pair.directories[which], &directory, &name);
        Version { directory, content: CONTENTS[which] }
    };
    (0..count).map(version).collect()
}

/// Updates onnxd under load.
async fn update(
    subject: Subject,
    versions: &[Version],
    options: &PictureOptions,
) -> Result<Run, String> {
    let (address, texts) = (subject.server.address(), &subject.texts);
    start_clients(address, texts, options, WARM_UP).finish().await?;
    let clients = start_clients(address, texts, options, options.length());
    let begin = clients.begin();
    let mut updates = Vec::new();
    for (at, version) in options.update_times().into_iter().zip(versions) {
        time::sleep_until((begin + at).into()).await;
        let called = subject.control.update(&version.directory, Load::Ahead).await?;
        called.result.map_err(|refusal| format!("refused: {refusal:?}"))?;
        let (start, end) = (called.start - begin, called.end - begin);
        updates.push(Update { start, end, content: version.content });
    }
    let samples = clients.finish().await?;
    subject.server.stop().await;
    Ok(Run { samples, updates })
}

/// Restarts the service under load.
async fn restart(
    initial: &Path,
    versions: &[Version],
    texts: &Arc<Texts>,
    options: &PictureOptions,
) -> Result<Run, String> {
    let (python, path) = (options.python.clone(), "bench/service/service.py");
    let script = Script { python, path, argument: None };
    let mut service = Service::start(script, initial).await?;
    start_clients(service.address(), texts, options, WARM_UP).finish().await?;
    let clients = start_clients(service.address(), texts, options, options.length());
    let begin = clients.begin();
    let mut updates = Vec::new();
    for (at, version) in options.update_times().into_iter().zip(versions) {
        time::sleep_until((begin + at).into()).await;
        let start = begin.elapsed();
        service.restart(&version.directory).await?;
        updates.push(Update { start, end: begin.elapsed(), content: version.content });
    }
    let samples = clients.finish().await?;
    service.stop().await?;
    Ok(Run { samples, updates })
}

fn start_clients(
    address: SocketAddr,
    texts: &Arc<Texts>,
    options: &PictureOptions,
    length: Duration,
) -> Clients {
    Clients::start(address, texts, options.clients, length, options.seed)
}

fn panel(title: &'static str, run: &Run, options: &PictureOptions) -> Panel {
    let failures = updates::failures(&run.updates, &run.samples);
    Panel {
        title,
        summary: Summary::of(&run.samples),
        bins: Bin::all(&run.samples, options.length()),
        updates: run.updates.iter().copied().zip(failures).collect(),
    }
}

fn print(panels: &[Panel]) {
    let mut table = Table::new("");
    for Panel { title, summary, updates, .. } in panels {
        let counts =
            [("requests", summary.requests.to_string()), ("failed", summary.failed.to_string())];
        let latencies = [
            ("p50 ms", ms(summary.p50)),
            ("p99 ms", ms(summary.p99)),
            ("longest ms", ms(summary.longest)),
        ];
        let durations: Vec<String> = updates
            .iter()
            .map(|(update, _)| format!("{:.1}", update.duration().as_secs_f64()))
            .collect();
        let durations = [("updates s", durations.join(" "))];
        table.row(*title, counts.into_iter().chain(latencies).chain(durations));
    }
    table.print();
    print_line("latencies are those of answered requests");
}
