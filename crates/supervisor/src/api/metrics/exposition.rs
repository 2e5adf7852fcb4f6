//! Collects everything that `GET /metrics` exposes, on request. A test compares it with
//! `docs/metrics.md`. [`onnxd_telemetry::metrics::format`] does the formatting.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use prometheus_client::{
    collector::Collector, encoding::DescriptorEncoder, encoding::text::encode, registry,
};
use serde::Serialize;

use crate::api::app::App;
use onnxd_engine::{
    dispatch::worker::{self, State},
    models::registry::{Model, Registry},
};
use onnxd_telemetry::metrics::{
    Metrics,
    format::{Format, Labels, Page, classic, with_exemplars},
    histogram::Histogram,
    model::ModelMetrics,
    process,
};

/// The histogram whose buckets have exemplars.
const REQUEST_DURATION: &str = "onnxd_request_duration_seconds";

/// The sources of all metrics.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub app: App,
    pub metrics: Arc<Metrics>,
    pub registry: Arc<Registry>,
    pub workers: Vec<worker::Status>,
}

impl Scrape {
    /// Renders the metrics. Reads files of the kernel and of the state directory.
    pub(crate) fn text(self, format: Format) -> String {
        let mut registry = registry::Registry::default();
        let metrics = Arc::clone(&self.metrics);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string succeeds");
        match format {
            Format::Classic => classic(&text),
            Format::OpenMetrics => {
                let routes = metrics.routes.all().iter();
                with_exemplars(
                    &text,
                    REQUEST_DURATION,
                    routes.flat_map(|route| route.duration.exemplars()),
                )
            }
        }
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let page = &mut Page(encoder);
        self.requests(page)?;
        self.items(page)?;
        self.phases(page)?;
        self.models(page)?;
        self.serving(page)?;
        self.updates(page)?;
        self.indexes(page)?;
        self.sources(page)?;
        self.workers(page)?;
        self.capacity(page)?;
        self.process(page)
    }
}

impl Scrape {
    fn requests(&self, page: &mut Page<'_>) -> fmt::Result {
        let metrics = &*self.metrics;
        let routes = metrics.routes.all();
        let by_status = routes.iter().flat_map(|route| {
            let labels =
                |status: u16| [("route", route.template.to_string()), ("code", status.to_string())];
            route.by_status().map(move |(status, count)| (labels(status), count))
        });
        page.counter("onnxd_requests", "Requests answered", by_status)?;
        page.histogram(
            REQUEST_DURATION,
            "Time from a request's headers to its response headers",
            routes.iter().map(|route| ([("route", route.template.to_string())], &route.duration)),
        )?;
        page.counter(
            "onnxd_requests_overloaded",
            "Requests rejected because the queue was full",
            [([], metrics.requests_overloaded_total.get())],
        )?;
        let malformed = metrics.requests_malformed_total.by_reason();
        page.counter(
            "onnxd_requests_malformed",
            "Requests refused because they are not valid HTTP",
            malformed.map(|(reason, count)| ([("reason", reason.to_owned())], count)),
        )?;
        page.gauge(
            "onnxd_connections",
            "Open HTTP and gRPC connections",
            [([], metrics.connections.get())],
        )?;
        page.counter(
            "onnxd_connections_delayed",
            "Connections that waited because the connection limit was reached",
            [([], metrics.connections_delayed_total.get())],
        )?;
        page.counter(
            "onnxd_connections_evicted",
            "Idle or slow connections closed to make room for new ones",
            [([], metrics.connections_evicted_total.get())],
        )
    }

    fn items(&self, page: &mut Page<'_>) -> fmt::Result {
        let metrics = &*self.metrics;
        for (name, about, counter) in [
            ("onnxd_items", "Items accepted into the queue", &metrics.items_total),
            (
                "onnxd_items_retried",
                "Items retried because their worker exited",
                &metrics.items_retried_total,
            ),
            (
                "onnxd_items_regenerated",
                "Items rerun so that each response has a single generation",
                &metrics.items_regenerated_total,
            ),
            (
                "onnxd_items_cancelled",
                "Items dropped because the client disconnected or the deadline passed",
                &metrics.items_cancelled_total,
            ),
            (
                "onnxd_items_poisonous",
                "Items that crashed too many workers and were answered with 500",
                &metrics.items_poisonous_total,
            ),
            (
                "onnxd_items_refused",
                "Items answered with 500 at once because identical items had crashed too many workers",
                &metrics.items_refused_total,
            ),
            (
                "onnxd_groups_terminated",
                "Groups terminated because an item's deadline passed",
                &metrics.groups_terminated_total,
            ),
            ("onnxd_micro_batches", "Micro-batches run", &metrics.micro_batches_total),
        ] {
            page.counter(name, about, [([], counter.get())])?;
        }
        let in_flight: u64 = self.workers.iter().map(|worker| worker.items as u64).sum();
        let waiting = metrics.items.get().saturating_sub(in_flight);
        page.gauge("onnxd_queue_items", "Items waiting for a worker", [([], waiting)])?;
        page.gauge(
            "onnxd_items_in_flight",
            "Items sent to workers and not yet answered",
            [([], in_flight)],
        )?;
        let micros = metrics.inference_cpu_micros_total.get();
        page.counter(
            "onnxd_inference_cpu_seconds",
            "CPU time that workers spent in ONNX Runtime and pooling",
            [([], std::time::Duration::from_micros(micros).as_secs_f64())],
        )
    }

    /// Durations of request phases, per model.
    fn phases(&self, page: &mut Page<'_>) -> fmt::Result {
        type SelectHistogram = fn(&ModelMetrics) -> &Histogram;
        let families: [(&str, &str, SelectHistogram); 7] = [
            (
                "onnxd_queue_duration_seconds",
                "Time from an item's submission to its delivery to a worker, once per delivery",
                |model| &model.queue,
            ),
            (
                "onnxd_tokenize_duration_seconds",
                "Time a worker took to tokenize a group",
                |model| &model.tokenize,
            ),
            (
                "onnxd_inference_duration_seconds",
                "Time a micro-batch spent in ONNX Runtime and pooling",
                |model| &model.inference,
            ),
            ("onnxd_batch_size", "Items per micro-batch", |model| &model.batch_size),
            (
                "onnxd_load_wait_seconds",
                "Time an item waited for its worker to load a version",
                |model| &model.load_wait,
            ),
            (
                "onnxd_model_load_duration_seconds",
                "Time a worker took to load a version, ahead of a commit or on demand",
                |model| &model.load,
            ),
            (
                "onnxd_update_duration_seconds",
                "Time from an update request to its commit",
                |model| &model.update,
            ),
        ];
        for (name, about, of) in families {
            let series = self.of_models(|_, metrics| of(metrics));
            page.histogram(name, about, series)?;
        }
        page.counter(
            "onnxd_tokens",
            "Tokens computed, including special tokens",
            self.of_models(|_, metrics| metrics.tokens.get()),
        )
    }

    fn models(&self, page: &mut Page<'_>) -> fmt::Result {
        let generation = |model: &Model| model.serving().map_or(0, |(generation, _)| generation);
        page.gauge(
            "onnxd_model_generation",
            "Committed generation",
            self.of_models(|model, _| generation(model)),
        )?;
        let served = self.registry.models().iter().filter_map(|model| {
            let (_, record) = model.serving()?;
            let (version, task) = (record.version.clone(), word(&record.facts.task));
            Some(([("model", model.name.to_string()), ("version", version), ("task", task)], 1_u64))
        });
        page.gauge("onnxd_model_info", "Committed version; always 1", served)?;
        page.gauge(
            "onnxd_state_damaged_records",
            "Generations that the start skipped, because their records or versions are damaged",
            self.of_models(|_, metrics| metrics.damaged_records.load(Ordering::Relaxed)),
        )?;
        let results = self.by_result(ModelMetrics::load_results);
        page.counter("onnxd_model_loads", "Version loads by workers", results)
    }

    fn updates(&self, page: &mut Page<'_>) -> fmt::Result {
        let metrics = &*self.metrics;
        let results = self.by_result(ModelMetrics::update_results);
        page.counter(
            "onnxd_updates",
            "Updates and rollbacks by result: committed, or the kind of refusal. Includes a model's first version",
            results,
        )?;
        for (name, about, counter) in [
            (
                "onnxd_updates_refused",
                "Updates and rollbacks refused, across all models",
                &metrics.updates_refused_total,
            ),
            (
                "onnxd_commits",
                "Generations committed since start, across all models",
                &metrics.commits_total,
            ),
            (
                "onnxd_automatic_rollbacks",
                "Generations rolled back because workers failed",
                &metrics.automatic_rollbacks_total,
            ),
        ] {
            page.counter(name, about, [([], counter.get())])?;
        }
        Ok(())
    }

    fn workers(&self, page: &mut Page<'_>) -> fmt::Result {
        let states = State::ALL.iter().map(|state| {
            let count = self.workers.iter().filter(|worker| worker.state == *state).count();
            ([("state", word(state))], count)
        });
        page.gauge("onnxd_workers", "Workers by state", states)?;
        let generations = self.workers.iter().flat_map(|worker| {
            self.registry.models().iter().map(|model| {
                let load = worker.loads.get(usize::from(model.slot)).copied().unwrap_or_default();
                let labels = [("worker", worker.id.to_string()), ("model", model.name.to_string())];
                (labels, load.generation)
            })
        });
        page.gauge(
            "onnxd_worker_generation",
            "Generation a worker has loaded; 0 if none",
            generations,
        )?;
        let memory = self.workers.iter().map(|worker| {
            let bytes = process::memory_bytes(&worker.pid.to_string(), "RssAnon");
            ([("worker", worker.id.to_string())], bytes)
        });
        page.gauge(
            "onnxd_worker_memory_bytes",
            "Private memory of a worker, without shared weights; 0 while it has no process",
            memory,
        )?;
        let killed = self.metrics.workers_killed_total.by_reason();
        page.counter(
            "onnxd_workers_killed",
            "Workers killed because they were unresponsive (hung) or stopped (SIGSTOP)",
            killed.map(|(reason, count)| ([("reason", reason.to_owned())], count)),
        )?;
        page.counter(
            "onnxd_workers_recycled",
            "Workers recycled because they exceeded --worker-memory",
            [([], self.metrics.workers_recycled_total.get())],
        )?;
        let restarts = self.metrics.worker_restarts_total.by_reason();
        page.counter(
            "onnxd_worker_restarts",
            "Worker restarts by how the worker exited: SIGKILL, another signal or an exit code",
            restarts.map(|(reason, count)| ([("reason", reason.to_owned())], count)),
        )
    }

    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        let build = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("build_id", onnxd_proto::BUILD_ID.to_owned()),
        ];
        let sandbox = u64::from(self.metrics.sandbox.load(Ordering::Relaxed));
        page.gauge(
            "onnxd_sandbox",
            "1 if workers and checkers are sandboxed, 0 with --no-sandbox",
            [([], sandbox)],
        )?;
        page.gauge(
            "onnxd_build_info",
            "Version and build of the running supervisor; always 1",
            [(build, 1_u64)],
        )?;
        page.counter(
            "onnxd_log_lines_dropped",
            "Supervisor log lines dropped because the reader was too slow",
            [([], onnxd_telemetry::stderr::lines_dropped())],
        )?;
        page.counter(
            "onnxd_spans_exported",
            "Spans that the collector of --otlp-endpoint took",
            [([], self.metrics.spans_exported_total.get())],
        )?;
        let dropped = self.metrics.spans_dropped_total.by_reason();
        page.counter(
            "onnxd_spans_dropped",
            "Recorded spans that were lost: the queue was full, or the collector did not take them",
            dropped.map(|(reason, count)| ([("reason", reason.to_owned())], count)),
        )?;
        self.resources(page)
    }

    /// Returns one series per model.
    pub(super) fn of_models<'s, V>(
        &'s self,
        value: impl Fn(&'s Model, &'s ModelMetrics) -> V,
    ) -> impl Iterator<Item = (Labels<1>, V)> {
        self.registry.models().iter().map(move |model| {
            let labels = [("model", model.name.to_string())];
            (labels, value(model, self.metrics.model(model.slot)))
        })
    }

    /// Returns one series per model and result.
    pub(super) fn by_result<'s, I: Iterator<Item = (&'static str, u64)>>(
        &'s self,
        results: impl Fn(&'s ModelMetrics) -> I,
    ) -> impl Iterator<Item = (Labels<2>, u64)> {
        self.of_models(move |_, metrics| results(metrics)).flat_map(|([model], results)| {
            results
                .map(move |(result, count)| ([model.clone(), ("result", result.to_owned())], count))
        })
    }
}

/// Returns the serialized name of an enum variant.
fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or("unknown").to_owned()
}
