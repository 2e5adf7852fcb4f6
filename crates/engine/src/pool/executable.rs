//! The worker's executable. Opened once and started from that file descriptor, so that a package
//! upgrade under a running supervisor cannot mix two builds.

use std::{
    env,
    fs::File,
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use rustix::io::fcntl_dupfd_cloexec;

/// Variables that a worker inherits. Everything else stays in the supervisor, especially secrets.
const INHERITED: &[&str] = &["LD_LIBRARY_PATH", "RUST_BACKTRACE", "TMPDIR"];

/// Variables set for every worker.
const FIXED: &[(&str, &str)] = &[
    // ONNX Runtime sends usage data unless this is set before its library is loaded.
    ("ORT_DISABLE_TELEMETRY", "1"),
    // Workers scale by process: each runs single-threaded.
    ("TOKENIZERS_PARALLELISM", "false"),
    ("RAYON_NUM_THREADS", "1"),
    ("OMP_NUM_THREADS", "1"),
    // glibc raises these thresholds on its own when large blocks are freed, and then keeps the
    // memory of dropped models. With fixed thresholds, memory stays flat over any number of
    // updates.
    ("MALLOC_MMAP_THRESHOLD_", "262144"),
    ("MALLOC_TRIM_THRESHOLD_", "2097152"),
];

/// The executable's lowest descriptor. A child takes lower ones for its own before it runs the executable.
const DESCRIPTOR_MIN: i32 = 10;

/// The worker's executable and the ONNX Runtime library that it loads.
#[derive(Clone, Debug)]
pub struct WorkerExecutable {
    file: Arc<File>,
    onnxruntime: PathBuf,
    /// Whether the processes sandbox themselves.
    confined: bool,
    /// Whether the processes use only the CPU time that others leave.
    background: bool,
}

impl WorkerExecutable {
    /// Opens the executable.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, onnxruntime: &Path, confined: bool) -> io::Result<Self> {
        let onnxruntime = onnxruntime.to_owned();
        let file = fcntl_dupfd_cloexec(File::open(path)?, DESCRIPTOR_MIN)?;
        Ok(Self { file: Arc::new(file.into()), onnxruntime, confined, background: false })
    }

    /// Returns the same executable, whose processes use only the CPU time that others leave.
    #[must_use]
    pub fn in_background(self) -> Self {
        Self { background: true, ..self }
    }

    /// Returns the path of ONNX Runtime's shared library.
    pub fn onnxruntime(&self) -> &Path {
        &self.onnxruntime
    }

    /// Returns a command that starts the worker, without a subcommand.
    pub fn command(&self) -> Command {
        // The child resolves this path before it closes the descriptors that it must not inherit.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0("onnxd-worker").env_clear();
        command.envs(INHERITED.iter().filter_map(|name| Some((name, env::var_os(name)?))));
        command.envs(FIXED.iter().copied());
        command.envs(onnxd_telemetry::log::variables());
        if !self.confined {
            command.arg("--no-sandbox");
        }
        if self.background {
            command.arg("--background");
        }
        command
    }
}
