//! Runs a sandboxed process that finds the model files of a source, because the supervisor parses no
//! model file. Runs whenever a source is resolved; takes milliseconds.

use std::{
    fmt,
    io::{self, Read},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use onnxd_proto::domain::{ListLine, Listing, ModelChoice, Refusal, RefusalKind, is_inside};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{models::sources::tree::Tree, pool::executable::WorkerExecutable};

/// Time limit of a listing, long enough for a slow disk.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum bytes of the output line: room for the paths of all files of a version.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Finds the files of a source's model.
pub(super) trait Lister: fmt::Debug + Send + Sync {
    /// Lists the source. Blocking.
    ///
    /// # Errors
    /// The source has no usable model. Messages name files relative to the source.
    fn list(&self, tree: &Tree, choice: &ModelChoice) -> Result<Listing, Refusal>;
}

/// Starts `onnxd-worker list`.
#[derive(Debug)]
pub(super) struct Process(WorkerExecutable);

impl Process {
    pub(super) fn new(executable: WorkerExecutable) -> Self {
        Self(executable)
    }
}

impl Lister for Process {
    fn list(&self, tree: &Tree, choice: &ModelChoice) -> Result<Listing, Refusal> {
        let mut command = self.0.command();
        command.arg("list");
        if tree.is_cached() {
            command.arg("--hub-cache");
        }
        match choice {
            ModelChoice::Unstated => {}
            ModelChoice::File(file) => drop(command.arg("--file").arg(file)),
            ModelChoice::Variant(name) => drop(command.arg("--variant").arg(name)),
        }
        let source = tree.handle().map_err(|error| failed(&error))?;
        // Pass a descriptor: the path may lead elsewhere by now.
        command.stdin(Stdio::from(source)).stdout(Stdio::piped());
        // The kernel kills the child when this thread exits, so this thread waits for it.
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let line = child.stdout.take().map_or(Ok(Vec::new()), |mut output| read(&mut output));
        if line.is_err() {
            // Ignore the error: the process may have exited already.
            let _ = child.kill();
        }
        let exit = wait(&mut child);
        match serde_json::from_slice(&line.map_err(|error| failed(&error))?) {
            Ok(ListLine::Listed(listing)) => validate(*listing),
            Ok(ListLine::Refused(refusal)) => Err(refusal),
            Err(_) => Err(failed(&exit)),
        }
    }
}

/// Reads the output to its end, within the time and size limits.
fn read(output: &mut ChildStdout) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + TIMEOUT;
    let (mut line, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let remaining = Timespec::try_from(remaining).map_err(io::Error::other)?;
        let mut ready = [PollFd::new(output, PollFlags::IN)];
        match poll(&mut ready, Some(&remaining)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let length = output.read(&mut part)?;
        if length == 0 {
            return Ok(line);
        }
        line.extend_from_slice(&part[..length]);
        if line.len() > LINE_BYTES_MAX {
            return Err(io::Error::other(format!("the output exceeds {LINE_BYTES_MAX} bytes")));
        }
    }
}

/// Waits for the process, which has closed its output or was killed, and describes its exit.
fn wait(child: &mut Child) -> String {
    match child.wait() {
        Ok(status) => match status.signal() {
            Some(signal) => format!("onnxd-worker list was killed by signal {signal}"),
            None => format!("onnxd-worker list exited without a result: {status}"),
        },
        Err(error) => error.to_string(),
    }
}

/// Checks that all paths are inside the source. The process that made the listing has read an
/// untrusted file.
fn validate(listing: Listing) -> Result<Listing, Refusal> {
    let model = listing.model.iter().map(|model| &model.file);
    match model.chain(&listing.external).find(|path| !is_inside(path)) {
        Some(path) => {
            Err(failed(&format!("the listing names {path:?}, which is outside the source")))
        }
        None => Ok(listing),
    }
}

fn failed(error: &dyn fmt::Display) -> Refusal {
    RefusalKind::Internal.because(format!("listing the source failed: {error}"))
}
