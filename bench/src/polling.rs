//! The cost of polling sources that do not change: requests, and CPU time beyond that of a server
//! that does not poll.

use std::time::Duration;

use e2e::{fixtures, processes::cpu_seconds, server::Server, web::Web};
use serde_json::json;

use crate::{
    options::Settings,
    report::{Report, Table, fixed},
    stats::to_f64,
};

/// Models, each with a source, so that a phase has many polls.
const MODELS: usize = 10;
/// Maximum CPU time of the supervisor for one poll.
const POLL_MILLIS_MAX: f64 = 1.0;
/// Longer than a phase.
const NEVER_SECONDS: u64 = 86_400;

/// What a phase cost.
struct Cost {
    polls: u64,
    requests: usize,
    /// Requests that were not answered with 304.
    with_content: usize,
    supervisor: f64,
    fetchers: f64,
}

/// Compares a server that polls every second with one that never polls.
pub(crate) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let idle = phase(NEVER_SECONDS, settings.phase()).await;
    let polling = phase(1, settings.phase()).await;
    let polls = to_f64(polling.polls.max(1));
    let per_poll = |polling: f64, idle: f64| (polling - idle) * 1000.0 / polls;
    let supervisor = per_poll(polling.supervisor, idle.supervisor);
    let fetcher = per_poll(polling.fetchers, idle.fetchers);
    let requests = to_f64(polling.requests as u64) / polls;
    let mut table = Table::new("an unchanged source");
    table.row(
        format!("{} polls", polling.polls),
        [
            ("requests per poll", fixed(requests, 2)),
            ("with content", polling.with_content.to_string()),
            ("supervisor CPU ms per poll", fixed(supervisor, 3)),
            ("fetcher CPU ms per poll", fixed(fetcher, 2)),
        ],
    );
    table.print();
    report.figures(
        "polling",
        json!({"polls": polling.polls, "requests": polling.requests,
               "supervisor_ms": supervisor, "fetcher_ms": fetcher}),
    );
    // A request that was sent belongs to a poll that is not yet counted.
    if polling.with_content > 0 || requests > to_f64(MODELS as u64) / polls + 1.0 {
        let (requests, content) = (polling.requests, polling.with_content);
        let what =
            format!("{requests} requests, {content} with content, in {} polls", polling.polls);
        report.violations("polling", &[what]);
    }
    report.at_most(
        "poll of an unchanged source: supervisor CPU",
        supervisor,
        POLL_MILLIS_MAX,
        " ms",
    );
    Ok(())
}

async fn phase(interval: u64, length: Duration) -> Cost {
    let builder = Server::builder().workers(1);
    let root = builder.directories().models();
    let folder = root.join("m");
    fixtures::replace_model(&fixtures::model("tiny/a"), &folder);
    fixtures::write_checksums(&folder);
    let web = Web::start(&root);
    let builder = (0..MODELS).fold(builder, |builder, number| {
        builder.argument(&format!("--model=m{number}={}", web.uri("m")))
    });
    let server = builder.argument(&format!("--poll={interval}")).start().await;
    let polls = async || {
        let status = server.status().await;
        let sources = status.models.iter().filter_map(|model| model.source_state.as_ref());
        sources.map(|source| source.checks).sum::<u64>()
    };
    // The first checks after a start have no validator yet.
    tokio::time::sleep(Duration::from_secs(5)).await;
    web.take_served();
    let before = (polls().await, cpu_seconds(server.pid()));
    tokio::time::sleep(length).await;
    let after = (cpu_seconds(server.pid()), polls().await);
    let served = web.take_served();
    let cost = Cost {
        polls: after.1 - before.0,
        requests: served.len(),
        with_content: served.iter().filter(|one| one.status != 304).count(),
        supervisor: after.0.0 - before.1.0,
        fetchers: after.0.1 - before.1.1,
    };
    server.stop().await;
    cost
}
