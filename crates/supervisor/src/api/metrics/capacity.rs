//! The series of what the server may use, and how much of it is used. Extends [`Scrape`].

use std::{fmt, time::UNIX_EPOCH};

use onnxd_telemetry::metrics::{format::Page, process};

use crate::{
    api::metrics::exposition::Scrape,
    process::{control_groups, machine},
};

impl Scrape {
    /// Adds the queue, the workers, the memory of bodies, the control groups and the certificate.
    pub(super) fn capacity(&self, page: &mut Page<'_>) -> fmt::Result {
        let engine = &self.app.engine;
        page.gauge(
            "onnxd_model_items",
            "Items of a model that are queued or running",
            self.of_models(|model, _| engine.items_of(model)),
        )?;
        let throttling = control_groups::throttling();
        for (name, about, value) in [
            (
                "onnxd_queue_limit_items",
                "Items of one model that may be queued or running, see --queue-limit",
                engine.items_max() as u64,
            ),
            ("onnxd_workers_configured", "Workers that should run", engine.workers() as u64),
            (
                "onnxd_body_memory_limit_bytes",
                "Memory that large bodies may use together, see --body-memory",
                engine.memory().limit_bytes() as u64,
            ),
            (
                "onnxd_body_memory_bytes",
                "Memory that large bodies use",
                (engine.memory().limit_bytes() - engine.memory().available_bytes()) as u64,
            ),
            (
                "onnxd_cgroup_memory_limit_bytes",
                "Memory limit of the control group; 0 if it has none",
                machine::group_memory_bytes().unwrap_or(0),
            ),
            (
                "onnxd_cgroup_memory_bytes",
                "Memory that the control group uses, without cached files that the kernel drops first",
                control_groups::memory_used_bytes(),
            ),
            (
                "onnxd_certificate_expiry_timestamp_seconds",
                "When the TLS certificate or one of its chain expires, in seconds since the Unix epoch; 0 without TLS",
                self.app.observed.tls.as_ref().and_then(|tls| tls.expires()).unwrap_or(0),
            ),
        ] {
            page.gauge(name, about, [([], value)])?;
        }
        page.counter(
            "onnxd_cgroup_periods",
            "Periods of the CPU quota in which the control group ran",
            [([], throttling.periods)],
        )?;
        page.counter(
            "onnxd_cgroup_throttled_periods",
            "Periods in which the control group used up its CPU quota",
            [([], throttling.throttled_periods)],
        )?;
        page.counter(
            "onnxd_cgroup_throttled_seconds",
            "Time that threads waited because the CPU quota was used up",
            [([], throttling.throttled.as_secs_f64())],
        )
    }

    /// Adds what the supervisor's own process uses.
    pub(super) fn resources(&self, page: &mut Page<'_>) -> fmt::Result {
        let started = self.metrics.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        page.gauge(
            "process_start_time_seconds",
            "Start time of the supervisor, in seconds since the Unix epoch",
            [([], started.as_secs_f64())],
        )?;
        page.counter(
            "process_cpu_seconds",
            "CPU time of the supervisor",
            [([], process::cpu_seconds())],
        )?;
        page.gauge(
            "process_resident_memory_bytes",
            "Resident memory of the supervisor",
            [([], process::memory_bytes("self", "VmRSS"))],
        )?;
        page.gauge(
            "process_open_fds",
            "File descriptors open in the supervisor",
            [([], process::open_fds())],
        )
    }
}
