//! Runs `onnxd-fetch export`, which sends spans to a collector: the supervisor links no HTTP client. A
//! thread writes each finished trace to the process and starts it again if it exits. Started by
//! [`crate::serve`] if a collector is configured.

use std::{
    io::{self, BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::Receiver,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use onnxd_engine::models::sources::fetcher::Fetcher;
use onnxd_proto::domain::span::{ExportReport, Span};
use onnxd_telemetry::{metrics::Metrics, tracer::Tracer};
use tokio::{sync::oneshot, time};

/// The variable that tells the process where to send spans.
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
/// Time for the last spans when onnxd stops. Then the process is killed.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before an exporter that exited is started again; doubled after each further exit.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// An exporter that ran for this long is started again after the shortest pause.
const STABLE: Duration = Duration::from_secs(60);

/// The running exporter.
#[derive(Debug)]
pub(crate) struct Exporter {
    tracer: Tracer,
    done: oneshot::Receiver<()>,
}

impl Exporter {
    /// Starts a thread that sends `traces` of `tracer` to a collector at `endpoint`. The process starts
    /// with the first trace.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(
        fetcher: Fetcher,
        endpoint: String,
        (tracer, traces): (Tracer, Receiver<Vec<Span>>),
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let (end, done) = oneshot::channel();
        thread::Builder::new().name("exporter".into()).spawn(move || {
            // Dropped at the end.
            let _end = end;
            let mut feeder = Feeder { fetcher, endpoint, metrics, process: None, retry: None };
            // An empty trace is the end.
            for trace in traces.iter().take_while(|trace| !trace.is_empty()) {
                feeder.feed(&trace);
            }
            if let Some(process) = feeder.process.take() {
                process.end();
            }
        })?;
        Ok(Self { tracer, done })
    }

    /// Sends the last spans, within [`FLUSH_TIMEOUT`].
    pub(crate) async fn stop(self) {
        self.tracer.stop();
        // Fails when the thread has ended. Otherwise the kernel kills the process after this one.
        if time::timeout(FLUSH_TIMEOUT, self.done).await.is_err() {
            tracing::warn!("the last spans were not exported in time");
        }
    }
}

/// Writes traces to the process.
struct Feeder {
    fetcher: Fetcher,
    endpoint: String,
    metrics: Arc<Metrics>,
    process: Option<Process>,
    /// When the process may start again, and the pause after that.
    retry: Option<(Instant, Duration)>,
}

/// A started process. It may have exited.
struct Process {
    input: ChildStdin,
    /// Counts its reports, and collects its exit status at once: it leaves no zombie.
    reports: JoinHandle<io::Result<ExitStatus>>,
    metrics: Arc<Metrics>,
    started: Instant,
    /// Spans that it has received and not reported.
    pending: Arc<AtomicU64>,
}

impl Feeder {
    /// Writes one trace, or counts it as dropped.
    fn feed(&mut self, trace: &[Span]) {
        let spans = trace.len() as u64;
        if self.process.is_none() && self.retry.is_none_or(|(at, _)| at <= Instant::now()) {
            match self.start() {
                Ok(process) => self.process = Some(process),
                Err(error) => self.failed(&error.to_string(), Duration::ZERO),
            }
        }
        let Some(process) = &mut self.process else {
            return self.metrics.spans_dropped_total.queue.add(spans);
        };
        process.pending.fetch_add(spans, Ordering::Relaxed);
        // Blocks if the process does not read. The queue is bounded, and drops further traces.
        if process.write(trace).is_err()
            && let Some(process) = self.process.take()
        {
            let lived = process.started.elapsed();
            self.failed(&process.end(), lived);
        }
    }

    /// Logs that the process does not run, and sets when it starts again.
    fn failed(&mut self, reason: &str, lived: Duration) {
        let pause = match self.retry {
            Some((_, pause)) if lived < STABLE => pause,
            _ => PAUSE,
        };
        tracing::error!(reason, pause_seconds = pause.as_secs(), "trace exporter is not running");
        self.retry = Some((Instant::now() + pause, (pause * 2).min(PAUSE_MAX)));
    }

    fn start(&self) -> io::Result<Process> {
        let mut command = self.fetcher.command();
        // A header may be secret, so settings are in the environment and not in the arguments.
        command.arg("export").current_dir("/").env(ENDPOINT_VARIABLE, &self.endpoint);
        Process::start(command, Arc::clone(&self.metrics))
    }
}

impl Process {
    fn start(mut command: Command, metrics: Arc<Metrics>) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or_else(|| io::Error::other("its pipes are missing"))?;
        let pending = Arc::new(AtomicU64::new(0));
        let (counted, unreported) = (Arc::clone(&metrics), Arc::clone(&pending));
        let reports = thread::Builder::new().name("exported".into());
        let reports = reports.spawn(move || {
            count(output, &counted, &unreported);
            child.wait()
        })?;
        Ok(Self { input, reports, metrics, started: Instant::now(), pending })
    }

    fn write(&mut self, trace: &[Span]) -> io::Result<()> {
        let mut line = serde_json::to_vec(trace)?;
        line.push(b'\n');
        self.input.write_all(&line)
    }

    /// Closes the input, waits until the process has exited, and describes the exit.
    fn end(self) -> String {
        let Self { input, reports, metrics, pending, .. } = self;
        drop(input);
        let status = reports.join();
        // A trace that was written after its end has no report, either.
        lose(&pending, &metrics);
        match status {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "internal error: its thread panicked".to_owned(),
        }
    }
}

/// Counts what the process reports. At its end, spans without a report are lost.
fn count(output: ChildStdout, metrics: &Metrics, pending: &AtomicU64) {
    for line in BufReader::new(output).lines() {
        let Ok(line) = line else { break };
        let Ok(ExportReport { exported, dropped }) = serde_json::from_str(&line) else { break };
        let reported = exported.saturating_add(dropped);
        let rest = |pending: u64| Some(pending.saturating_sub(reported));
        // Never fails: `rest` always returns a number.
        let _ = pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        metrics.spans_exported_total.add(exported);
        metrics.spans_dropped_total.collector.add(dropped);
    }
    lose(pending, metrics);
}

/// Counts spans that the process did not report.
fn lose(pending: &AtomicU64, metrics: &Metrics) {
    metrics.spans_dropped_total.collector.add(pending.swap(0, Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn spans_without_a_report_are_counted_and_no_zombie_is_left() {
        let metrics = Arc::new(Metrics::default());
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo '{"exported":2,"dropped":1}'; echo $$ >&2"#]);
        let (pid, output) = io::pipe().unwrap();
        command.stderr(output);
        let process = Process::start(command, Arc::clone(&metrics)).unwrap();
        let pid = BufReader::new(pid).lines().next().unwrap().unwrap();
        let start = Instant::now();
        while !process.reports.is_finished() {
            assert!(start.elapsed() < Duration::from_secs(20), "the thread ends with the process");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!Path::new("/proc").join(pid).exists(), "a zombie is left");
        // Written to the pipe after the process had ended.
        process.pending.fetch_add(5, Ordering::Relaxed);
        assert_eq!(process.end(), "exit status: 0");
        assert_eq!(metrics.spans_exported_total.get(), 2);
        assert_eq!(metrics.spans_dropped_total.collector.get(), 1 + 5);
    }
}
