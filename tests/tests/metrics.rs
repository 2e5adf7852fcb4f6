//! Metrics agree with what happened.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use e2e::{
    client::{Client, exchange},
    eventually,
    exposition::Exposition,
    fixtures::{model, workspace},
    processes::{self, Signal},
    server::Server,
};
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(30);

async fn scrape(server: &Server) -> Exposition {
    let response = server.client().await.get("/metrics").await.expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    Exposition::parse(&response.text()).unwrap_or_else(|wrong| panic!("{wrong}"))
}

async fn embed(client: &mut Client, texts: &[&str]) {
    let response = client.post("/embed", &json!({"inputs": texts})).await.expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
}

/// Asserts that a sample has this integer value.
#[track_caller]
fn assert_count(text: &Exposition, sample: &str, labels: &[(&str, &str)], expected: u32) {
    let value = text.value(sample, labels);
    assert!((value - f64::from(expected)).abs() < 1e-9, "{sample} {labels:?}: {value}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_exists_before_the_first_request() {
    let builder = Server::builder().model("one", &model("tiny/a")).model("two", &model("tiny/b"));
    let server = builder.start().await;
    let text = scrape(&server).await;
    for route in ["/embed", "/info", "/health", "/v1/embeddings", "/v2/health/live", "other"] {
        assert_count(&text, "onnxd_requests_total", &[("route", route), ("code", "200")], 0);
        assert_count(&text, "onnxd_request_duration_seconds_count", &[("route", route)], 0);
    }
    for name in ["one", "two"] {
        let labels = [("model", name)];
        for phase in ["queue_duration_seconds", "tokenize_duration_seconds", "load_wait_seconds"] {
            assert_count(&text, &format!("onnxd_{phase}_count"), &labels, 0);
        }
        assert_count(&text, "onnxd_inference_duration_seconds_count", &labels, 0);
        assert_count(&text, "onnxd_batch_size_count", &labels, 0);
        assert_count(&text, "onnxd_tokens_total", &labels, 0);
        assert_count(&text, "onnxd_model_generation", &labels, 1);
        let loads =
            |result| text.value("onnxd_model_loads_total", &[("model", name), ("result", result)]);
        // Workers that serve the first model load the second one ahead.
        assert!(loads("loaded") + loads("loaded_ahead") >= 2.0, "{name}");
        assert_eq!((loads("loaded") >= 2.0, loads("failed")), (name == "one", 0.0));
        for (result, count) in [("committed", 0), ("contract", 0), ("internal", 0)] {
            let labels = [("model", name), ("result", result)];
            assert_count(&text, "onnxd_updates_total", &labels, count);
        }
        for worker in ["0", "1"] {
            let labels = [("model", name), ("worker", worker)];
            assert_count(&text, "onnxd_worker_generation", &labels, 1);
        }
    }
    for reason in ["killed", "signal", "exited", "unknown"] {
        assert_count(&text, "onnxd_worker_restarts_total", &[("reason", reason)], 0);
    }
    assert_count(&text, "onnxd_workers", &[("state", "ready")], 2);
    assert_count(&text, "onnxd_workers", &[("state", "backoff")], 0);
    assert!(text.value("process_open_fds", &[]) > 3.0);
    assert!(text.value("process_resident_memory_bytes", &[]) > 1e6);
    assert!(text.value("onnxd_worker_memory_bytes", &[("worker", "1")]) > 1e6);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_agree_with_clients_and_status() {
    const REQUESTS: u32 = 20;
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let mut client = server.client().await;
    let mut tokens = 0;
    for request in 0..REQUESTS {
        let body = json!({"input": ["a market", format!("train {request}"), "sea"]});
        let response = client.post("/v1/embeddings", &body).await.expect("an answer");
        tokens += response.json()["usage"]["total_tokens"].as_u64().expect("tokens");
    }
    let refused = client.post("/embed", &json!({"inputs": []})).await.expect("an answer");
    assert_ne!(refused.status, 200);

    let text = scrape(&server).await;
    let route = ("route", "/v1/embeddings");
    assert_count(&text, "onnxd_requests_total", &[route, ("code", "200")], REQUESTS);
    assert_count(&text, "onnxd_request_duration_seconds_count", &[route], REQUESTS);
    let code = refused.status.to_string();
    assert_count(&text, "onnxd_requests_total", &[("route", "/embed"), ("code", &code)], 1);
    let labels = [("model", "m")];
    assert_count(&text, "onnxd_items_total", &[], REQUESTS * 3);
    assert_count(&text, "onnxd_queue_duration_seconds_count", &labels, REQUESTS * 3);
    assert_count(&text, "onnxd_batch_size_sum", &labels, REQUESTS * 3);
    assert_count(&text, "onnxd_tokens_total", &labels, u32::try_from(tokens).expect("few"));
    let batches = text.value("onnxd_micro_batches_total", &[]);
    for per_batch in ["onnxd_batch_size_count", "onnxd_inference_duration_seconds_count"] {
        assert!((text.value(per_batch, &labels) - batches).abs() < 1e-9, "{per_batch}");
    }
    let groups = text.value("onnxd_tokenize_duration_seconds_count", &labels);
    assert!((f64::from(REQUESTS)..=batches).contains(&groups), "{groups} groups");
    let inference = text.value("onnxd_inference_duration_seconds_sum", &labels);
    let request = text.value("onnxd_request_duration_seconds_sum", &[route]);
    assert!(inference > 0.0 && request > 0.0, "{inference} {request}");
    for idle in ["onnxd_queue_items", "onnxd_items_in_flight"] {
        assert_count(&text, idle, &[], 0);
    }
    // One connection of the client and one of the scrape.
    assert!((2.0..=4.0).contains(&text.value("onnxd_connections", &[])));

    let status = server.status().await;
    for name in ["items_total", "items_retried_total", "micro_batches_total", "commits_total"] {
        let count = u32::try_from(status.counter(name)).expect("few");
        assert_count(&text, &format!("onnxd_{name}"), &[], count);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_ahead_moves_the_gauges_and_counts_no_wait() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let updated = server.update("m", Some(&model("tiny/b"))).await.expect("an update");
    assert!(server.update("m", Some("/nowhere".as_ref())).await.is_err());
    server.settled().await;
    embed(&mut server.client().await, &["a market"]).await;

    let text = scrape(&server).await;
    let labels = [("model", "m")];
    assert_count(&text, "onnxd_model_generation", &labels, 2);
    for worker in ["0", "1"] {
        assert_count(&text, "onnxd_worker_generation", &[("model", "m"), ("worker", worker)], 2);
    }
    let info = [("model", "m"), ("version", &updated.version), ("task", "embed")];
    assert_count(&text, "onnxd_model_info", &info, 1);
    assert_eq!(
        text.family("onnxd_model_info").samples.len(),
        1,
        "expected only the committed version"
    );
    for (result, count) in [("committed", 1), ("not_found", 1), ("contract", 0)] {
        assert_count(&text, "onnxd_updates_total", &[("model", "m"), ("result", result)], count);
    }
    assert_count(&text, "onnxd_update_duration_seconds_count", &labels, 1);
    assert_count(&text, "onnxd_updates_refused_total", &[], 1);
    let ahead = [("model", "m"), ("result", "loaded_ahead")];
    assert_count(&text, "onnxd_model_loads_total", &ahead, 2);
    assert_count(&text, "onnxd_model_load_duration_seconds_count", &labels, 4);
    assert_count(&text, "onnxd_load_wait_seconds_count", &labels, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_wait_for_a_lazy_load_are_counted() {
    let server = Server::builder().workers(1).model("m", &model("tiny/a")).start().await;
    let mut client = server.client().await;
    embed(&mut client, &["a market"]).await;
    let lazy = ["--load", "lazy"];
    server.update_with("m", Some(&model("tiny/b")), &lazy).await.expect("an update");
    let start = Instant::now();
    embed(&mut client, &["a market"]).await;
    let took = start.elapsed().as_secs_f64();
    embed(&mut client, &["a market"]).await;

    let text = scrape(&server).await;
    assert_count(&text, "onnxd_load_wait_seconds_count", &[("model", "m")], 1);
    let waited = text.value("onnxd_load_wait_seconds_sum", &[("model", "m")]);
    assert!(waited > 0.0 && waited <= took, "waited {waited} s of {took} s");
    let loaded = [("model", "m"), ("result", "loaded")];
    assert_count(&text, "onnxd_model_loads_total", &loaded, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_exits_are_counted_by_reason() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    for (restarts, signal) in [(1, Signal::SIGKILL), (2, Signal::SIGABRT)] {
        processes::signal(server.settled().await.pids()[0], signal);
        server.restarted(restarts).await;
    }
    let text = scrape(&server).await;
    for (reason, count) in [("killed", 1), ("signal", 1), ("exited", 0), ("unknown", 0)] {
        assert_count(&text, "onnxd_worker_restarts_total", &[("reason", reason)], count);
    }
    assert_eq!(server.status().await.counter("worker_restarts_total"), 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_cannot_create_route_labels() {
    const REQUESTS: u32 = 50;
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let before = scrape(&server).await.label("onnxd_requests_total", "route");
    let mut client = server.client().await;
    for request in 0..REQUESTS {
        let path = format!("/{}/embed/{request}?{request}=%22", request * 7919);
        assert_eq!(client.get(&path).await.expect("an answer").status, 404);
    }
    assert_eq!(client.get("/embed?a=b").await.expect("an answer").status, 405);
    let after = scrape(&server).await;
    assert_eq!(after.label("onnxd_requests_total", "route"), before);
    let other = [("route", "other"), ("code", "404")];
    assert_count(&after, "onnxd_requests_total", &other, REQUESTS);
    let known = [("route", "/embed"), ("code", "405")];
    assert_count(&after, "onnxd_requests_total", &known, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_metrics_is_served_on_request() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let request = "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
        accept: application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1\r\n\r\n";
    let raw = exchange(server.address(), request.as_bytes(), TIMEOUT).await.expect("an answer");
    let answer = String::from_utf8_lossy(&raw.received);
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(answer.contains(kind), "{answer}");
    let body = raw.body();
    assert!(body.ends_with("\n# EOF\n"), "{body}");
    assert!(body.contains("# TYPE onnxd_items counter\nonnxd_items_total 0\n"), "{body}");
    server.stop().await;
}

/// Parts of names with a unit, and the suffix that they require.
const UNITS: [(&str, &str); 5] = [
    ("_duration", "_seconds"),
    ("_wait", "_seconds"),
    ("_cpu", "_seconds"),
    ("_time", "_seconds"),
    ("_memory", "_bytes"),
];
/// Non-base units and metric types, which do not belong in names.
const NOT_IN_NAMES: [&str; 9] =
    ["millis", "micros", "minutes", "_ms", "_us", "kilobytes", "percent", "counter", "gauge"];

#[tokio::test(flavor = "multi_thread")]
async fn names_follow_the_conventions() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    for (name, family) in &scrape(&server).await.families {
        assert!(name.starts_with("onnxd_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), family.kind == "counter", "{name}");
        assert!(NOT_IN_NAMES.iter().all(|part| !name.contains(part)), "{name}");
        let stem = name.strip_suffix("_total").unwrap_or(name);
        for (about, unit) in UNITS {
            assert!(!name.contains(about) || stem.ends_with(unit), "{name} must end in {unit}");
        }
        if name.ends_with("_info") {
            assert!(family.samples.values().all(|value| (value - 1.0).abs() < 1e-9), "{name}");
        }
        assert!(!family.help.is_empty() && !family.help.ends_with('.'), "{name}");
    }
    server.stop().await;
}

/// Returns the rows of the table in docs/metrics.md: type, labels and meaning by name.
fn documented() -> BTreeMap<String, (String, String, String)> {
    let text = fs::read_to_string(workspace().join("docs/metrics.md")).expect("docs/metrics.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let row = |row: &str| {
        let (name, rest) = row.split_once("` | ").expect("a name");
        let cells: Vec<&str> = rest.trim_end_matches('|').split('|').map(str::trim).collect();
        let [kind, labels, meaning] = cells[..] else { panic!("{row}") };
        (name.to_owned(), (kind.to_owned(), labels.replace('`', ""), meaning.to_owned()))
    };
    rows.map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_lists_every_metric() {
    // Only watched sources have metrics.
    let builder = Server::builder().model("m", &model("tiny/a")).argument("--poll=600");
    let server = builder.start().await;
    for result in ["unchanged", "changed", "failed"] {
        let labels = [("model", "m"), ("result", result)];
        assert_count(&scrape(&server).await, "onnxd_source_checks_total", &labels, 0);
    }
    let exposed = scrape(&server).await.families.into_iter().map(|(name, family)| {
        let labels: BTreeSet<&str> = family.labels();
        let labels = labels.into_iter().collect::<Vec<_>>().join(", ");
        (name, (family.kind, labels, family.help))
    });
    let exposed: BTreeMap<_, _> = exposed.collect();
    let documented = documented();
    for (name, row) in &exposed {
        assert_eq!(documented.get(name), Some(row), "{name} in docs/metrics.md");
    }
    let unknown: Vec<_> = documented.keys().filter(|name| !exposed.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "docs/metrics.md lists unknown metrics: {unknown:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn running_items_are_counted_as_in_flight() {
    let server = Server::builder()
        .tolerates_stopped_workers()
        .workers(1)
        .model("m", &model("tiny/a"))
        .start()
        .await;
    let pid = server.settled().await.pids()[0];
    processes::signal(pid, Signal::SIGSTOP);
    let mut client = server.client().await;
    let pending = tokio::spawn(async move {
        for _ in 0..2 {
            embed(&mut client, &["a market", "a train", "the sea"]).await;
        }
    });
    let seen = eventually("items in flight", TIMEOUT, async || {
        let text = scrape(&server).await;
        let (waiting, in_flight) =
            (text.value("onnxd_queue_items", &[]), text.value("onnxd_items_in_flight", &[]));
        (in_flight > 0.0).then_some(waiting + in_flight)
    })
    .await;
    assert!((seen - 3.0).abs() < 1e-9, "{seen}");
    processes::signal(pid, Signal::SIGCONT);
    pending.await.expect("answers");
    server.stop().await;
}
