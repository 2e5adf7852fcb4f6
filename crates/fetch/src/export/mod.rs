//! `onnxd-fetch export`: sends spans to an OpenTelemetry collector for the supervisor, which links no
//! HTTP client. Standard input has one trace a line, a JSON list of
//! [`Span`]s; each batch is answered with an [`ExportReport`] a line. Ends with its input.

mod json;
mod protobuf;
mod sender;
mod settings;

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal},
    },
    unistd::{Pid, getppid},
};
use onnxd_proto::{
    domain::{
        fetch::{FetchError, FetchErrorKind},
        span::{ExportReport, Span},
    },
    exit::ExitStatus,
};
use onnxd_sandbox::{self as sandbox, Limits, Network, SandboxError, files::Files};
use onnxd_telemetry::log;
use tokio::{
    sync::{mpsc, watch},
    time,
};

use self::{sender::Sender, settings::Settings};
use crate::environment::Environment;

/// Spans that are sent at once, except for those of the last trace.
const BATCH_SPANS_MAX: usize = 512;
/// How long a batch waits for more spans.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// Traces that wait for the next batch. More wait in the pipe, and then in the supervisor.
const WAITING_TRACES_MAX: usize = 128;
/// Maximum bytes of a line. A trace has about ten spans.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Runs the exporter until the supervisor closes its input.
pub(crate) fn main(parent: Pid, confined: bool) -> ExitCode {
    match export(parent, confined) {
        Ok(()) => ExitStatus::Success.into(),
        Err(error) => {
            log::print_error(&format!("the trace exporter cannot start: {}", error.message));
            ExitStatus::Configuration.into()
        }
    }
}

fn export(parent: Pid, confined: bool) -> Result<(), FetchError> {
    let internal =
        |error: &dyn std::fmt::Display| FetchErrorKind::Internal.because(error.to_string());
    // A terminal and systemd signal all processes, but the last spans come while the supervisor stops.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block().map_err(|error| internal(&error))?;
    let settings = Settings::load(Environment::of_process())?;
    let sender = Sender::new(settings)?;
    limit(parent).map_err(|error| internal(&error))?;
    if confined {
        confine().map_err(|error| internal(&error))?;
    }
    let (traces, mut waiting) = mpsc::channel(WAITING_TRACES_MAX);
    let (end, ended) = watch::channel(false);
    let reader = thread::Builder::new().name("input".into());
    reader
        .spawn(move || {
            read(&traces);
            end.send_replace(true);
        })
        .map_err(|error| internal(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| internal(&error))?.block_on(async {
        while let Some(batch) = next_batch(&mut waiting).await {
            print(sender.send(&batch, ended.clone()).await);
        }
    });
    Ok(())
}

/// Lowers the priority and sets limits. The process ends with its parent.
fn limit(parent: Pid) -> Result<(), SandboxError> {
    sandbox::yield_to_serving();
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        std::process::exit(ExitStatus::Success as i32);
    }
    sandbox::prefer_oom_kill();
    sandbox::limit(Limits::serving())
}

/// Restricts the process to outgoing connections.
fn confine() -> Result<(), SandboxError> {
    sandbox::enter_with(Network::Outgoing)?;
    Files::of_exporter()?.enter()
}

/// Reads traces until the input ends.
fn read(traces: &mpsc::Sender<Vec<Span>>) {
    let mut input = io::stdin().lock();
    let mut line = String::new();
    loop {
        line.clear();
        match input.by_ref().take(LINE_BYTES_MAX).read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let Ok(trace) = serde_json::from_str(&line) else {
            tracing::error!("internal error: the supervisor sent an invalid line");
            return;
        };
        if traces.blocking_send(trace).is_err() {
            return;
        }
    }
}

/// Returns the next spans to send. `None` at the end.
async fn next_batch(traces: &mut mpsc::Receiver<Vec<Span>>) -> Option<Vec<Span>> {
    let mut batch = traces.recv().await?;
    let end = time::Instant::now() + BATCH_DELAY;
    while batch.len() < BATCH_SPANS_MAX
        && let Ok(Some(more)) = time::timeout_at(end, traces.recv()).await
    {
        batch.extend(more);
    }
    Some(batch)
}

/// Prints a report. Nobody reads it if that fails, so the process ends.
fn print(report: ExportReport) {
    let line = serde_json::to_string(&report).unwrap_or_default();
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(ExitStatus::Internal as i32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a span for tests of encodings.
    pub(super) fn span(name: &'static str, parent: Option<u64>, error: Option<&str>) -> Span {
        Span {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            id: 0x00f0_67aa_0ba9_02b7,
            parent,
            name: name.into(),
            is_server: parent.is_none(),
            start: 1_700_000_000_000_000_001,
            end: 1_700_000_000_000_000_002,
            attributes: vec![("http.route".into(), "/embed".into()), ("n".into(), 5.into())],
            error: error.map(str::to_owned),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_ends_when_it_is_full_or_old() {
        let (sender, mut traces) = mpsc::channel(WAITING_TRACES_MAX);
        let trace = vec![span("a", None, None); BATCH_SPANS_MAX / 2];
        for _ in 0..3 {
            sender.send(trace.clone()).await.unwrap();
        }
        let start = time::Instant::now();
        assert_eq!(next_batch(&mut traces).await.unwrap().len(), BATCH_SPANS_MAX);
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(next_batch(&mut traces).await.unwrap().len(), BATCH_SPANS_MAX / 2);
        assert_eq!(start.elapsed(), BATCH_DELAY);
        drop(sender);
        assert!(next_batch(&mut traces).await.is_none());
    }
}
