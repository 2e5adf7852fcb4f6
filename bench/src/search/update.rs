//! An update that embeds all documents again before it commits, while clients search.

use std::time::{Duration, Instant};

use e2e::fixtures;
use serde_json::json;
use tokio::time;

use crate::{
    control::{CallResult, Control, Load},
    options::SearchOptions,
    report::{Report, Table, fixed},
    search::{
        clients::{Clients, Exchanges, send_all, send_for},
        collection::{Collection, found},
        documents,
    },
    stats::{Latencies, ratio, to_f64},
    subject::ModelPair,
};

/// Maximum p99 of searches while documents are embedded again, relative to before and after.
const P99_MAX: f64 = 1.25;

pub(super) async fn run(
    pair: &ModelPair,
    workers: usize,
    options: &SearchOptions,
    report: &mut Report,
) -> Result<(), String> {
    let server = pair.builder(workers).start().await;
    let control = Control::new(&server, pair.model);
    let collection = Collection::create(&server, pair.model, "documents").await?;
    let all = documents::documents(options.seed, options.updated);
    send_all(&collection.adding(), &Collection::additions(&all), options.clients).await?;
    let bodies = collection.searches(&documents::queries(options.seed, options.queries));
    let (searching, clients) = (collection.searching(), options.clients);
    // Both models take turns, each as a version that is new to the server.
    let directory = server.home().models();
    let mut table = Table::new(format!("{} documents, {clients} clients", options.updated));
    let (mut p99, mut rates) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let next = directory.join(format!("update-{round}"));
        let like = &pair.directories[1 - round % pair.directories.len()];
        fixtures::variant(like, &next, &format!("update-{round}"));
        send_for(&searching, &bodies, clients, Duration::from_secs(1)).await?;
        let before = send_for(&searching, &bodies, clients, options.phase()).await?;
        let running = Clients::start(&searching, &bodies, clients).await?;
        let called = control.update(&next, Load::Ahead).await?;
        let committed = called.result.as_ref().map_err(|refusal| format!("{refusal:?}"))?;
        time::sleep(Duration::from_secs(1)).await;
        let during = running.finish().await?;
        report.violations("update", &violations(&before, &during, &called, &committed.version)?);
        let Some((start, end)) = indexing(&called) else {
            return Err(format!("the update embedded nothing: {:?}", called.steps));
        };
        let seconds = (end - start).as_secs_f64();
        let rate = to_f64(options.updated as u64) / seconds;
        let after = send_for(&searching, &bodies, clients, options.phase()).await?;
        let quiet = Exchanges {
            elapsed: before.elapsed + after.elapsed,
            all: before.all.into_iter().chain(after.all).collect(),
        };
        let base = quiet.latencies();
        let name = format!("before and after update {}", round + 1);
        let cells = [("searches per second", fixed(quiet.per_second(), 0))];
        table.row(name, cells.into_iter().chain(base.cells()));
        for (name, (start, end)) in
            [("whole update", (called.start, called.end)), ("embedding", (start, end))]
        {
            let some = within(&during, start, end);
            let (p50, tail) = (ratio(some.median(), base.median()), ratio(some.p99(), base.p99()));
            let per_second = to_f64(some.len() as u64) / (end - start).as_secs_f64();
            let cells = [("searches per second", fixed(per_second, 0))];
            let ratios = [("p50 to quiet", fixed(p50, 2)), ("p99 to quiet", fixed(tail, 2))];
            let seconds = [("s", fixed((end - start).as_secs_f64(), 1))];
            let all = cells.into_iter().chain(some.cells()).chain(ratios).chain(seconds);
            table.row(format!("  {name}"), all);
            if name == "embedding" {
                p99.push(tail);
                rates.push(rate);
            }
        }
    }
    table.print();
    p99.sort_by(f64::total_cmp);
    let median = p99[p99.len() / 2];
    report.at_most("embedding again: p99 of searches to undisturbed", median, P99_MAX, "x");
    report.figures("update", json!({"p99": p99, "documents_per_second": rates}));
    server.stop().await;
    Ok(())
}

/// Returns when documents were embedded again: from the end of the step before.
fn indexing(called: &CallResult) -> Option<(Instant, Instant)> {
    let is_of = |step: &str| step == "indexing" || step == "indexed";
    let first = called.steps.iter().position(|(step, _)| is_of(step))?;
    let start = first.checked_sub(1).map_or(called.start, |before| called.steps[before].1);
    let end = called.steps.iter().rfind(|(step, _)| is_of(step))?.1;
    Some((start, end))
}

/// Returns the latencies of requests that overlapped this time.
fn within(exchanges: &Exchanges, start: Instant, end: Instant) -> Latencies {
    let overlaps = exchanges.all.iter().filter(|one| one.end > start && one.start < end);
    overlaps.map(|one| one.latency()).collect()
}

/// Returns what contradicts the update: a search of the wrong version, or without documents.
fn violations(
    before: &Exchanges,
    during: &Exchanges,
    called: &CallResult,
    new: &str,
) -> Result<Vec<String>, String> {
    let mut violations = Vec::new();
    for (exchange, must_be_old) in
        before.all.iter().map(|one| (one, true)).chain(during.all.iter().filter_map(|one| {
            // In between, both are right.
            let must_be_old = one.end < called.start;
            (must_be_old || one.start > called.end).then_some((one, must_be_old))
        }))
    {
        if (exchange.response.version() == Some(new)) == must_be_old {
            violations.push(format!("a search used version {:?}", exchange.response.version()));
        }
    }
    for exchange in &during.all {
        if found(&exchange.response)?.is_empty() {
            violations.push("a search found nothing".to_owned());
        }
    }
    violations.truncate(5);
    Ok(violations)
}
