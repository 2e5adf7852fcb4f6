//! Flags under the heading "Workers": the number of workers and when they are replaced.

use std::{
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
};

use serde::Deserialize;

use crate::config::values::{count, seconds};

/// The settings under "Workers".
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct WorkerFlags {
    /// Number of worker processes [default: one per usable CPU]
    ///
    /// Each worker runs inference on one CPU. At most 1024. Use fewer to leave CPUs to other
    /// programs. A CPU quota of a control group (`cpu.max`) lowers the default: a container with
    /// 1.5 CPUs gets 2 workers.
    ///
    /// Example: --workers 4
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroUsize>,
        env = "ONNXD_WORKERS",
        help_heading = "Workers"
    )]
    pub workers: Option<NonZeroUsize>,

    /// Limit on a worker's private memory, in MiB [default: none]
    ///
    /// A worker above the limit is recycled: it finishes its requests and is restarted. Workers are recycled one at a
    /// time, and each at most once a minute. Set it if the memory of workers keeps growing.
    ///
    /// Example: --worker-memory 2048
    #[arg(
        long,
        value_name = "MIB",
        value_parser = count::<NonZeroU64>,
        env = "ONNXD_WORKER_MEMORY",
        help_heading = "Workers"
    )]
    pub worker_memory: Option<NonZeroU64>,

    /// CPUs for a single request when idle [default: at most 4]
    ///
    /// A single request may use several CPUs while the server is otherwise idle. This shortens its latency and costs
    /// more CPU time. The default is one per worker, at most 4. 1 turns it off.
    ///
    /// Example: --idle-cpus 1
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroUsize>,
        env = "ONNXD_IDLE_CPUS",
        help_heading = "Workers"
    )]
    pub idle_cpus: Option<NonZeroUsize>,

    /// The former name of --idle-cpus
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroUsize>,
        env = "ONNXD_ALONE_CPUS",
        hide = true,
        help_heading = "Workers"
    )]
    pub alone_cpus: Option<NonZeroUsize>,

    /// Restarts per minute before a worker is given up [default: 10]
    ///
    /// The limit for all workers together is (workers + 1) / 2 times as high. Beyond that, onnxd exits with code 69.
    ///
    /// Example: --worker-restarts 3
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroU32>,
        env = "ONNXD_WORKER_RESTARTS",
        help_heading = "Workers"
    )]
    pub worker_restarts: Option<NonZeroU32>,

    /// Seconds until a starting worker must be ready [default: 120]
    ///
    /// An idle worker has as long to answer a ping. A worker that takes longer is killed and replaced. Raise it if
    /// models load slowly, for example from a network file system.
    ///
    /// Example: --start-timeout 300
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_START_TIMEOUT",
        help_heading = "Workers"
    )]
    pub start_timeout: Option<u64>,

    /// Seconds until a stopped worker is replaced [default: 2]
    ///
    /// Applies to workers that a signal or a debugger has stopped. Raise it to debug a worker.
    ///
    /// Example: --stopped-grace 3600
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_STOPPED_GRACE",
        help_heading = "Workers"
    )]
    pub stopped_grace: Option<u64>,

    /// ONNX Runtime's shared library [default: libonnxruntime.so]
    ///
    /// Needs version 1.24 or newer. The default is libonnxruntime.so in the directory of the onnxd executable.
    ///
    /// Example: --onnxruntime /usr/lib/libonnxruntime.so
    #[arg(long, value_name = "PATH", env = "ONNXD_ONNXRUNTIME", help_heading = "Workers")]
    pub onnxruntime: Option<PathBuf>,

    /// Executable of the workers [default: onnxd-worker]
    ///
    /// Must be from the same build as onnxd. The default is onnxd-worker in the directory of the onnxd executable.
    ///
    /// Example: --worker-binary /usr/lib/onnxd/onnxd-worker
    #[arg(long, value_name = "PATH", env = "ONNXD_WORKER_BINARY", help_heading = "Workers")]
    pub worker_binary: Option<PathBuf>,
}

overlay!(WorkerFlags: workers worker_memory idle_cpus alone_cpus worker_restarts start_timeout stopped_grace onnxruntime worker_binary);
