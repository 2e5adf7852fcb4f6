//! The worker's executable: opened once, and always this file is started, so that a package
//! upgrade beneath a running supervisor cannot mix two builds.

use std::{
    env,
    fs::File,
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// Variables that a worker inherits; everything else, secrets above all, stays here.
const INHERITED: &[&str] = &["LD_LIBRARY_PATH", "RUST_BACKTRACE", "TMPDIR"];

/// Variables that every worker gets.
const FIXED: &[(&str, &str)] = &[
    // ONNX Runtime sends usage data unless this is set before its library is loaded.
    ("ORT_DISABLE_TELEMETRY", "1"),
    // One thread a worker is the point of it all.
    ("TOKENIZERS_PARALLELISM", "false"),
    ("RAYON_NUM_THREADS", "1"),
    ("OMP_NUM_THREADS", "1"),
    // glibc raises these thresholds by itself when large blocks are freed, and then keeps what a
    // dropped model used. Fixed, memory is flat after any number of updates.
    ("MALLOC_MMAP_THRESHOLD_", "262144"),
    ("MALLOC_TRIM_THRESHOLD_", "2097152"),
];

/// The worker's executable and the library that it loads.
#[derive(Clone, Debug)]
pub struct WorkerExecutable {
    file: Arc<File>,
    onnxruntime: PathBuf,
    /// Whether the processes confine themselves.
    confined: bool,
}

impl WorkerExecutable {
    /// Opens the executable.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open(path: &Path, onnxruntime: &Path, confined: bool) -> io::Result<Self> {
        let onnxruntime = onnxruntime.to_owned();
        Ok(Self { file: Arc::new(File::open(path)?), onnxruntime, confined })
    }

    /// ONNX Runtime's shared library.
    pub fn onnxruntime(&self) -> &Path {
        &self.onnxruntime
    }

    /// A command that starts it, without its subcommand.
    pub fn command(&self) -> Command {
        // The child resolves the path before it closes what is not to be inherited.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0("onnxd-worker").env_clear();
        command.envs(INHERITED.iter().filter_map(|name| Some((name, env::var_os(name)?))));
        command.envs(FIXED.iter().copied());
        command.envs(onnxd_telemetry::log::variables());
        if !self.confined {
            command.arg("--no-sandbox");
        }
        command
    }
}
