//! Measures ONNX Runtime alone, without the server: one pinned single-threaded process per CPU,
//! running `onnxd-bench-runtime measure`.

use std::{path::Path, process::Stdio};

use e2e::fixtures;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// How texts are batched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Texts per call, padded to the longest.
    pub batch: usize,
    /// Texts sorted by length together; 0 sorts the whole corpus.
    pub window: usize,
}

impl Way {
    pub(crate) fn name(self) -> String {
        match self {
            Self { batch: 1, .. } => "one text per call".to_owned(),
            Self { batch, window: 0 } => format!("batches of {batch}, all texts sorted"),
            Self { batch, window } => format!("batches of {batch}, {window} texts sorted"),
        }
    }
}

/// Results of all processes together.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Limit {
    pub texts_per_second: f64,
    pub cpu_seconds_per_1000: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Output of one process.
#[derive(Debug, Deserialize)]
struct Measurement {
    texts: f64,
    seconds: f64,
    cpu_seconds: f64,
    p50_ms: f64,
    p99_ms: f64,
}

struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Runs the texts in a file on these CPUs in parallel.
pub(crate) async fn run(
    version: &Path,
    texts: &Path,
    cpus: &[u16],
    way: Way,
    seconds: f64,
) -> Result<Limit, String> {
    let mut processes = Vec::new();
    for cpu in cpus {
        processes.push(Process::start(version, texts, *cpu, way, seconds)?);
    }
    for process in &mut processes {
        process.line().await?;
    }
    for process in &mut processes {
        let input =
            process.child.stdin.as_mut().ok_or("onnxd-bench-runtime has no standard input")?;
        input.write_all(b"\n").await.map_err(|error| error.to_string())?;
    }
    let mut limit = Limit::default();
    let (mut texts, mut cpu_seconds) = (0.0, 0.0);
    for process in &mut processes {
        let line = process.line().await?;
        let one: Measurement =
            serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))?;
        texts += one.texts;
        cpu_seconds += one.cpu_seconds;
        limit.texts_per_second += one.texts / one.seconds;
        limit.p50_ms = limit.p50_ms.max(one.p50_ms);
        limit.p99_ms = limit.p99_ms.max(one.p99_ms);
        process.child.wait().await.map_err(|error| error.to_string())?;
    }
    limit.cpu_seconds_per_1000 = cpu_seconds / texts * 1e3;
    Ok(limit)
}

impl Process {
    fn start(
        version: &Path,
        texts: &Path,
        cpu: u16,
        way: Way,
        seconds: f64,
    ) -> Result<Self, String> {
        let mut command = Command::new(fixtures::bench_runtime());
        command.arg("measure").arg("--onnxruntime").arg(fixtures::onnxruntime());
        command.arg("--version-dir").arg(version).arg("--texts").arg(texts);
        for (name, value) in [
            ("--cpu", cpu.to_string()),
            ("--batch", way.batch.to_string()),
            ("--window", way.window.to_string()),
            ("--seconds", seconds.to_string()),
        ] {
            command.args([name, &value]);
        }
        command.env("ORT_DISABLE_TELEMETRY", "1").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("onnxd-bench-runtime: {error}"))?;
        let output = child.stdout.take().ok_or("onnxd-bench-runtime has no standard output")?;
        Ok(Self { child, lines: BufReader::new(output).lines() })
    }

    async fn line(&mut self) -> Result<String, String> {
        let line = self.lines.next_line().await.map_err(|error| error.to_string())?;
        line.ok_or_else(|| "onnxd-bench-runtime exited early".to_owned())
    }
}
