//! Asks a confined process which files of a source are its model: the supervisor parses no model
//! file. Started for every resolution of a source; it takes milliseconds.

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

/// How long a listing may take. A slow disk is waited for.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of the line: paths of as many files as there may be.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Finds the files of a source's model.
pub(super) trait Lister: fmt::Debug + Send + Sync {
    /// Blocking.
    ///
    /// # Errors
    /// The source has no model to take; messages name files relative to the source.
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
        // Inherited as a handle: a path could lead elsewhere by now.
        command.stdin(Stdio::from(source)).stdout(Stdio::piped());
        // The kernel ends the process with the thread that started it, and this one waits for it.
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let line = child.stdout.take().map_or(Ok(Vec::new()), |mut output| read(&mut output));
        if line.is_err() {
            // It may have ended meanwhile.
            let _ = child.kill();
        }
        let ended = end(&mut child);
        match serde_json::from_slice(&line.map_err(|error| failed(&error))?) {
            Ok(ListLine::Listed(listing)) => sound(*listing),
            Ok(ListLine::Refused(refusal)) => Err(refusal),
            Err(_) => Err(failed(&ended)),
        }
    }
}

/// Reads to the end.
fn read(output: &mut ChildStdout) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + TIMEOUT;
    let (mut line, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut ready = [PollFd::new(output, PollFlags::IN)];
        match poll(&mut ready, Some(&left)) {
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
            return Err(io::Error::other("it says too much"));
        }
    }
}

/// How the process ended, which has closed its output or is killed.
fn end(child: &mut Child) -> String {
    match child.wait() {
        Ok(status) => match status.signal() {
            Some(signal) => format!("ended by signal {signal}"),
            None => format!("ended without a line: {status}"),
        },
        Err(error) => error.to_string(),
    }
}

/// The listing, if its paths are inside the source: it was made by a process that has read a
/// stranger's file.
fn sound(listing: Listing) -> Result<Listing, Refusal> {
    let model = listing.model.iter().map(|model| &model.file);
    match model.chain(&listing.external).find(|path| !is_inside(path)) {
        Some(path) => Err(failed(&format!("it names {path:?}"))),
        None => Ok(listing),
    }
}

fn failed(error: &dyn fmt::Display) -> Refusal {
    RefusalKind::Internal.because(format!("listing the source: {error}"))
}
