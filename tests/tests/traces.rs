//! Traces over OTLP: the spans of requests and updates, sampling, a collector that does not work, and
//! nothing at all unless an endpoint is set.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]

use std::{
    fs,
    time::{Duration, Instant},
};

use e2e::{
    client::Response,
    collector::{Behavior, Collector, Span},
    eventually,
    exposition::Exposition,
    fixtures::model,
    grpc,
    launch::Builder,
    processes,
    server::Server,
};
use hyper::Method;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const SECRET: &str = "tr4ce-s3cret";

/// A server that sends traces in JSON and records no request without a parent.
fn exporting(collector: &Collector) -> Builder {
    exporting_to(&collector.url())
}

fn exporting_to(url: &str) -> Builder {
    Server::builder()
        .model("m", &model("tiny/a"))
        .argument("--otlp-endpoint")
        .argument(url)
        .variable("ONNXD_TRACE_RATIO", "0")
        .variable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
        .variable("OTEL_EXPORTER_OTLP_HEADERS", &format!("authorization=Bearer%20{SECRET}"))
}

/// Sends a request with this `traceparent`.
async fn embed(server: &Server, traceparent: &str) -> Response {
    let headers = [("content-type", "application/json"), ("traceparent", traceparent)];
    let body = json!({"inputs": ["one text", "another"]}).to_string();
    let mut client = server.client().await;
    client.send_with(Method::POST, "/embed", &headers, body.into()).await.unwrap()
}

fn sampled(trace: &str) -> String {
    format!("00-{trace}-{CALLER}-01")
}

async fn metrics(server: &Server) -> Exposition {
    let response = server.client().await.get("/metrics").await.unwrap();
    Exposition::parse(&String::from_utf8_lossy(&response.body)).unwrap()
}

async fn dropped(server: &Server, reason: &str) -> f64 {
    metrics(server).await.value("onnxd_spans_dropped_total", &[("reason", reason)])
}

fn names(trace: &[Span]) -> Vec<&str> {
    trace.iter().map(|span| span.name.as_str()).collect()
}

/// Checks that the children of the root are inside of it, and that each begins after the one before.
fn assert_ordered(trace: &[Span]) {
    let (root, children) = trace.split_first().unwrap();
    for child in children {
        assert_eq!((&child.parent, child.is_server), (&root.id, false), "{child:?}");
        assert!(root.start <= child.start && child.end <= root.end, "{child:?} in {root:?}");
        assert!(child.start <= child.end, "{child:?}");
    }
    for pair in children.windows(2) {
        assert!(pair[0].end <= pair[1].start, "{pair:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampled_request_has_a_span_for_each_phase() {
    let collector = Collector::start(Behavior::Take);
    let server = exporting(&collector).start().await;
    assert_eq!(embed(&server, &sampled(TRACE)).await.status, 200);
    let trace = collector.trace("the request", |span| span.trace == TRACE).await;
    let phases = ["POST /embed", "admission", "queue", "tokenize", "inference", "encode"];
    assert_eq!(names(&trace), phases);
    let root = &trace[0];
    assert_eq!((root.parent.as_str(), root.is_server), (CALLER, true));
    assert_ordered(&trace);
    assert_eq!(trace[1].start, root.start);
    assert_eq!(trace[5].end, root.end);
    let inference = &trace[4];
    assert!(inference.end - inference.start > 10_000, "an inference takes time: {inference:?}");
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/embed"),
        ("http.response.status_code", "200"),
        ("onnxd.model", "m"),
        ("onnxd.generation", "1"),
    ] {
        assert_eq!(root.attributes.get(name).map(String::as_str), Some(value), "{root:?}");
    }
    let post = collector.posts().pop().unwrap();
    assert_eq!(post.path, "/v1/traces");
    assert_eq!(post.headers["content-type"], "application/json");
    assert_eq!(post.headers["authorization"], format!("Bearer {SECRET}"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_has_the_same_spans() {
    let collector = Collector::start(Behavior::Take);
    let server = grpc::listening(exporting(&collector)).start().await;
    let mut client = grpc::client(&server).await;
    let mut request = tonic::Request::new(grpc::texts("m", &[("text", &["a text"])]));
    request.metadata_mut().insert("traceparent", sampled(TRACE).parse().unwrap());
    client.model_infer(request).await.unwrap();
    let trace = collector.trace("the call", |span| span.trace == TRACE).await;
    let method = "inference.GRPCInferenceService/ModelInfer";
    let phases = [method, "admission", "queue", "tokenize", "inference", "encode"];
    assert_eq!(names(&trace), phases);
    assert_ordered(&trace);
    assert_eq!(trace[0].attributes["rpc.grpc.status_code"], "0");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_client_disconnects_is_an_error() {
    let collector = Collector::start(Behavior::Take);
    let server = exporting(&collector).tolerates_stopped_workers().start().await;
    let workers = server.worker_pids().await;
    workers.iter().for_each(|pid| processes::signal(*pid, processes::Signal::SIGSTOP));
    let trace = sampled(TRACE);
    let waiting = tokio::time::timeout(Duration::from_secs(1), embed(&server, &trace)).await;
    assert!(waiting.is_err(), "no worker runs");
    let trace = collector.trace("the request", |span| span.trace == TRACE).await;
    assert_eq!(names(&trace), ["POST /embed", "admission", "queue", "inference"]);
    assert_ordered(&trace);
    assert_failed_last(&trace, "the client disconnected", "client_disconnected");
    workers.iter().for_each(|pid| processes::signal(*pid, processes::Signal::SIGCONT));
    server.stop().await;
}

/// Checks that the root and its last child failed, and no other child.
fn assert_failed_last(trace: &[Span], message: &str, kind: &str) {
    let failed = |span: &Span| {
        let is_kind = span.attributes.get("error.type").is_some_and(|found| found == kind);
        span.error.as_deref() == Some(message) && is_kind
    };
    let last = trace.len() - 1;
    for (index, span) in trace.iter().enumerate() {
        assert_eq!(failed(span), index == 0 || index == last, "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_requests_have_the_spans_they_reached() {
    let collector = Collector::start(Behavior::Take);
    let server = exporting(&collector).workers(1).tolerates_stopped_workers().start().await;
    let send = async |number: u32, body: String, milliseconds: &str| {
        let trace = format!("{number:032x}");
        let header = sampled(&trace);
        let headers = [
            ("content-type", "application/json"),
            ("traceparent", &header),
            ("x-request-timeout-ms", milliseconds),
        ];
        let mut client = server.client().await;
        let sent = client.send_with(Method::POST, "/embed", &headers, body.into()).await;
        (sent.unwrap().status, trace)
    };
    // Refused before it is submitted: the client's mistake.
    let (status, id) = send(1, "{".to_owned(), "1000").await;
    assert_eq!(status, 400);
    let trace = collector.trace("the malformed request", |span| span.trace == id).await;
    assert_eq!(names(&trace), ["POST /embed", "admission"]);
    assert!(trace.iter().all(|span| span.error.is_none()), "{trace:?}");
    // Rejected by the tokenizer.
    let long = json!({"inputs": "word ".repeat(2000), "truncate": false}).to_string();
    let (status, id) = send(2, long, "10000").await;
    assert_eq!(status, 422);
    let trace = collector.trace("the long text", |span| span.trace == id).await;
    assert_eq!(names(&trace), ["POST /embed", "admission", "queue", "tokenize"]);
    assert!(trace.iter().all(|span| span.error.is_none()), "{trace:?}");
    // The worker does not answer, and then it accepts no more.
    let workers = server.worker_pids().await;
    workers.iter().for_each(|pid| processes::signal(*pid, processes::Signal::SIGSTOP));
    let short = || json!({"inputs": "a text"}).to_string();
    let (status, id) = send(3, short(), "300").await;
    assert_eq!(status, 504);
    let trace = collector.trace("the late request", |span| span.trace == id).await;
    assert_eq!(names(&trace), ["POST /embed", "admission", "queue", "inference"]);
    assert_ordered(&trace);
    assert_failed_last(&trace, "the request took longer than 0.3 s", "timeout");
    workers.iter().for_each(|pid| processes::signal(*pid, processes::Signal::SIGCONT));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_names_traces_that_begin_here() {
    let collector = Collector::start(Behavior::Take);
    let builder = exporting(&collector).argument("--trace-ratio=1").argument("--access-log=all");
    let server = builder.start().await;
    let mut client = server.client().await;
    client.post("/embed", &json!({"inputs": "x"})).await.unwrap();
    let trace = collector.trace("a new trace", |span| span.is_server).await;
    let field = format!("trace_id=\"{}\"", trace[0].trace);
    eventually("the line of the access log", SOON, async || {
        server.stderr().lines().any(|line| line.contains(&field)).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_methods_do_not_name_spans() {
    let collector = Collector::start(Behavior::Take);
    let server = exporting(&collector).start().await;
    let headers = [("traceparent", &*sampled(TRACE))];
    let method = Method::from_bytes(b"S3CRET").unwrap();
    let mut client = server.client().await;
    client.send_with(method, "/embed", &headers, Vec::new().into()).await.unwrap();
    let trace = collector.trace("the request", |span| span.trace == TRACE).await;
    assert_eq!(trace[0].name, "HTTP /embed");
    assert_eq!(trace[0].attributes["http.request.method"], "_OTHER");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_and_the_ratio_decide_what_is_sampled() {
    let collector = Collector::start(Behavior::Take);
    let server = exporting(&collector).start().await;
    let unsampled = "11111111111111111111111111111111";
    for _ in 0..20 {
        embed(&server, &format!("00-{unsampled}-{CALLER}-00")).await;
        // A malformed header counts as none, and the ratio is 0.
        embed(&server, "00-garbage").await;
    }
    // Sent in order, so earlier ones have arrived with it.
    embed(&server, &sampled(TRACE)).await;
    collector.trace("the request", |span| span.trace == TRACE).await;
    let requests = collector.spans().into_iter().filter(|span| span.is_server);
    assert_eq!(requests.map(|span| span.trace).collect::<Vec<_>>(), [TRACE]);
    server.stop().await;

    let all = exporting(&collector).argument("--trace-ratio=1").start().await;
    let mut client = all.client().await;
    client.post("/embed", &json!({"inputs": "x"})).await.unwrap();
    let trace = collector.trace("a new trace", |span| span.is_server && span.trace != TRACE).await;
    assert_eq!((trace[0].name.as_str(), trace[0].parent.as_str()), ("POST /embed", ""));
    let probes = collector.spans().into_iter().filter(|span| span.name.starts_with("GET"));
    assert_eq!(probes.count(), 0, "probes start no traces");
    all.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_has_a_span_for_each_step() {
    let collector = Collector::start(Behavior::Take);
    let server = exporting(&collector).start().await;
    server.update("m", Some(&model("tiny/b"))).await.unwrap();
    let committed = |span: &Span| {
        let generation = span.attributes.get("onnxd.generation");
        span.name == "update" && generation.is_some_and(|generation| generation == "2")
    };
    let trace = collector.trace("the update", committed).await;
    let steps =
        ["update", "resolve", "fetch", "stage", "check", "load", "index", "record", "commit"];
    assert_eq!(names(&trace), steps);
    assert_ordered(&trace);
    assert_eq!(trace[0].attributes["onnxd.model"], "m");

    let empty = server.home().root().join("empty");
    fs::create_dir(&empty).unwrap();
    let refusal = server.update("m", Some(&empty)).await.unwrap_err();
    let trace = collector.trace("the refused update", |span| span.error.is_some()).await;
    assert_eq!(names(&trace), ["update", "resolve"]);
    assert_failed_last(&trace, &refusal.message, "contract");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_collector_costs_a_counter() {
    let builders = [
        // Nothing listens there.
        exporting_to(&format!("http://{}", e2e::launch::free_address())),
        exporting(&Collector::start(Behavior::Refuse(500))),
        exporting(&Collector::start(Behavior::Refuse(503))),
        exporting(&Collector::start(Behavior::Hang)).variable("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
    ];
    for builder in builders {
        let server = builder.start().await;
        let start = Instant::now();
        for number in 0..50 {
            let trace = sampled(&format!("{number:031x}1"));
            assert_eq!(embed(&server, &trace).await.status, 200);
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "50 requests took {took:?}");
        eventually("dropped spans", SOON, async || {
            (dropped(&server, "collector").await > 0.0).then_some(())
        })
        .await;
        assert!((metrics(&server).await.value("onnxd_spans_exported_total", &[])) < 0.5);
        let log = server.stderr();
        assert!(log.contains("collector did not accept spans"), "{log}");
        assert!(!log.contains(SECRET), "{log}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_returns_gets_spans_again() {
    let collector = Collector::start(Behavior::Refuse(503));
    let server = exporting(&collector).start().await;
    embed(&server, &sampled(TRACE)).await;
    eventually("an attempt", SOON, async || (!collector.posts().is_empty()).then_some(())).await;
    collector.behave(Behavior::Take);
    // The batch is sent again: 503 may be retried.
    collector.trace("the request", |span| span.trace == TRACE).await;
    eventually("exported spans", SOON, async || {
        (metrics(&server).await.value("onnxd_spans_exported_total", &[]) > 5.0).then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exporter_that_crashed_is_replaced_and_secrets_stay_hidden() {
    let collector = Collector::start(Behavior::Take);
    let mut server = exporting(&collector).start().await;
    embed(&server, &sampled(TRACE)).await;
    collector.trace("the request", |span| span.trace == TRACE).await;
    let exporter = || {
        let all = processes::descendants(server.pid());
        let command = |pid: i32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        all.into_iter().find(|process| command(process.pid).starts_with(b"onnxd-fetch\0"))
    };
    let commands: Vec<u8> = processes::descendants(server.pid())
        .into_iter()
        .flat_map(|process| fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default())
        .collect();
    assert!(!String::from_utf8_lossy(&commands).contains(SECRET));
    let status = server.cli(&["status", "--json"]).await.stdout;
    assert!(!String::from_utf8_lossy(&status).contains(SECRET));

    let confined = fs::read_to_string(format!("/proc/{}/status", exporter().unwrap().pid)).unwrap();
    assert!(confined.contains("NoNewPrivs:\t1") && confined.contains("Seccomp:\t2"), "{confined}");

    exporter().unwrap().signal(processes::Signal::SIGKILL);
    // The first trace after the crash is lost, like those that the process had not sent.
    let mut number = 100;
    let again = eventually("an exporter", SOON, async || {
        number += 1;
        let trace = format!("{number:032x}");
        assert_eq!(embed(&server, &sampled(&trace)).await.status, 200);
        exporter().and(Some(trace))
    })
    .await;
    let arrived = collector.trace("later requests", |span| span.trace == again).await;
    assert_eq!(arrived.len(), 6);
    assert!(server.stderr().contains("trace exporter is not running"));
    assert!(!server.stderr().contains(SECRET));
    server.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_are_sent_when_the_server_stops() {
    let collector = Collector::start(Behavior::Take);
    let server = exporting(&collector).start().await;
    embed(&server, &sampled(TRACE)).await;
    server.stop().await;
    assert!(collector.spans().iter().any(|span| span.trace == TRACE), "before the exit");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_without_an_endpoint() {
    let collector = Collector::start(Behavior::Take);
    let off = [
        Server::builder().variable("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        Server::builder()
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
            .variable("OTEL_SDK_DISABLED", "true"),
    ];
    for builder in off {
        let server = builder.model("m", &model("tiny/a")).start().await;
        embed(&server, &sampled(TRACE)).await;
        let commands: String = processes::descendants(server.pid())
            .into_iter()
            .filter_map(|process| fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).ok())
            .collect();
        assert!(commands.contains("worker") && !commands.contains("export"), "{commands}");
        assert!(metrics(&server).await.value("onnxd_spans_exported_total", &[]) < 0.5);
        server.stop().await;
    }
    assert!(collector.posts().is_empty());
    // The same with the variable alone, in the default encoding.
    let server = Server::builder()
        .model("m", &model("tiny/a"))
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .start()
        .await;
    embed(&server, &sampled(TRACE)).await;
    eventually("exported spans", SOON, async || {
        (metrics(&server).await.value("onnxd_spans_exported_total", &[]) > 5.0).then_some(())
    })
    .await;
    let post = collector.posts().pop().unwrap();
    assert_eq!(post.headers["content-type"], "application/x-protobuf");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn histograms_have_exemplars_in_openmetrics() {
    let collector = Collector::start(Behavior::Take);
    let server = exporting(&collector).start().await;
    embed(&server, &sampled(TRACE)).await;
    let accept = [("accept", "application/openmetrics-text; version=1.0.0")];
    let mut client = server.client().await;
    let response =
        client.send_with(Method::GET, "/metrics", &accept, Vec::new().into()).await.unwrap();
    let text = String::from_utf8_lossy(&response.body).into_owned();
    assert!(text.ends_with("# EOF\n"));
    let exemplars: Vec<&str> = text.lines().filter(|line| line.contains(TRACE)).collect();
    let [exemplar] = exemplars[..] else { panic!("{exemplars:?}") };
    assert!(exemplar.starts_with("onnxd_request_duration_seconds_bucket{"), "{exemplar}");
    assert!(exemplar.contains("route=\"/embed\""), "{exemplar}");
    let (count, value) = exemplar.split_once(&format!(" # {{trace_id=\"{TRACE}\"}} ")).unwrap();
    assert!(count.ends_with("} 1"), "{exemplar}");
    let numbers: Vec<f64> = value.split(' ').map(|number| number.parse().unwrap()).collect();
    assert!(numbers[0] > 0.0 && numbers[1] > 1.7e9, "{exemplar}");
    // The classic format has none.
    metrics(&server).await;
    server.stop().await;
}
