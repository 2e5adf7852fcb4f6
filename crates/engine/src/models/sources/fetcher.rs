//! Runs `onnxd-fetch`, the confined process that speaks to other servers, and talks to it in lines of
//! JSON (see [`onnxd_proto::domain::fetch`]). Called by [`remote`](super::remote).

use std::{
    collections::BTreeSet,
    env,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use onnxd_proto::domain::{
    Refusal, RefusalKind,
    fetch::{FetchError, FetchErrorKind, FetchEvent, FetchRequest, RemoteSnapshot, Resolve},
    is_inside,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::models::sources::source::{Progress, cancelled};

/// Time limit for the next event. Shorter limits of the fetcher apply before.
const SILENCE_MAX: Duration = Duration::from_secs(180);
/// Longest time until a cancelled conversation ends.
const CANCEL_TICK: Duration = Duration::from_millis(100);
/// Maximum bytes of a message of the fetcher and of a snapshot's id, which go into logs and records.
const MESSAGE_BYTES_MAX: usize = 2000;
const ID_BYTES_MAX: usize = 512;
/// Maximum bytes of an event: room for the paths of all files of a source.
const LINE_BYTES_MAX: usize = 16 << 20;

/// The fetcher's executable. Opened once, like the worker's.
#[derive(Clone, Debug)]
pub struct Fetcher {
    file: Arc<File>,
    /// Whether the process sandboxes itself.
    confined: bool,
}

impl Fetcher {
    /// Opens the executable.
    ///
    /// # Errors
    /// Returns the system's error if the file cannot be opened.
    pub fn open(path: &Path, confined: bool) -> io::Result<Self> {
        Ok(Self { file: Arc::new(File::open(path)?), confined })
    }

    /// Returns a command that runs the executable in this process's environment.
    pub fn command(&self) -> Command {
        // The child resolves this path before it closes the descriptors that it must not inherit.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0("onnxd-fetch");
        command.env_remove("LD_PRELOAD").envs(onnxd_telemetry::log::variables());
        // By which the process resolves relative paths in variables.
        if let Ok(here) = env::current_dir() {
            command.env("PWD", here);
        }
        if !self.confined {
            command.arg("--no-sandbox");
        }
        command
    }

    /// Starts a process that downloads into `folder`. It inherits the environment, where people keep
    /// credentials and proxies.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(super) fn start<'p>(
        &self,
        folder: &Path,
        progress: Progress<'p>,
    ) -> Result<Conversation<'p>, Refusal> {
        let mut command = self.command();
        command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(requests), Some(events)) => {
                rustix::io::ioctl_fionbio(&requests, true).map_err(|error| failed(&error))?;
                let unread = Vec::new();
                Ok(Conversation { child, requests: Some(requests), events, unread, progress })
            }
            _ => Err(failed(&"its pipes are missing")),
        }
    }
}

/// A running fetcher. Dropping it ends the process.
pub(super) struct Conversation<'p> {
    child: Child,
    requests: Option<ChildStdin>,
    events: ChildStdout,
    unread: Vec<u8>,
    /// Asked whether to go on while the fetcher is silent.
    progress: Progress<'p>,
}

impl Conversation<'_> {
    /// Identifies what the source holds; `None` if it is what the request calls known. Reports progress
    /// because the files of a container image are known only after its layers were downloaded.
    ///
    /// # Errors
    /// The source cannot be reached, or the fetcher failed.
    pub(super) fn resolve(
        &mut self,
        resolve: Resolve,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Option<RemoteSnapshot>, Refusal> {
        let files_max = resolve.files_max;
        self.send(&FetchRequest::Resolve(resolve))?;
        loop {
            match self.next()? {
                FetchEvent::Progress { bytes, total } => progress(bytes, total),
                FetchEvent::Unchanged => return Ok(None),
                FetchEvent::Snapshot(snapshot) => return validate(snapshot, files_max).map(Some),
                FetchEvent::Failed(error) => return Err(refusal(error)),
                event => return Err(failed(&format!("unexpected event {event:?}"))),
            }
        }
    }

    /// Downloads files of the snapshot.
    ///
    /// # Errors
    /// A file cannot be downloaded, or the fetcher failed.
    pub(super) fn download(
        &mut self,
        files: Vec<String>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Refusal> {
        self.send(&FetchRequest::Download(files))?;
        loop {
            match self.next()? {
                FetchEvent::Progress { bytes, total } => progress(bytes, total),
                FetchEvent::Downloaded => return Ok(()),
                FetchEvent::Failed(error) => return Err(refusal(error)),
                event => return Err(failed(&format!("unexpected event {event:?}"))),
            }
        }
    }

    fn send(&mut self, request: &FetchRequest) -> Result<(), Refusal> {
        let mut line = serde_json::to_vec(request).map_err(|error| failed(&error))?;
        line.push(b'\n');
        let deadline = Instant::now() + SILENCE_MAX;
        let mut rest = &line[..];
        while !rest.is_empty() {
            let Some(requests) = &self.requests else { return Err(failed(&"it was ended")) };
            // The fetcher may have stopped to read.
            self.wait(requests, PollFlags::OUT, deadline)?;
            match (&mut &*requests).write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(())
    }

    /// Reads the next event, within the limits.
    fn next(&mut self) -> Result<FetchEvent, Refusal> {
        let deadline = Instant::now() + SILENCE_MAX;
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|error| failed(&error));
            }
            if self.unread.len() > LINE_BYTES_MAX {
                return Err(failed(&format!("an event exceeds {LINE_BYTES_MAX} bytes")));
            }
            self.wait(&self.events, PollFlags::IN, deadline)?;
            if self.read().map_err(|error| failed(&error))? == 0 {
                let status = self.child.wait().map_err(|error| failed(&error))?;
                return Err(failed(&format!("it exited without a result: {status}")));
            }
        }
    }

    /// Waits until a pipe is ready, or the conversation is cancelled.
    fn wait(&self, pipe: &impl AsFd, flags: PollFlags, deadline: Instant) -> Result<(), Refusal> {
        loop {
            if self.progress.is_cancelled() {
                return Err(cancelled());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let pause =
                Timespec::try_from(left.min(CANCEL_TICK)).map_err(|error| failed(&error))?;
            match poll(&mut [PollFd::new(pipe, flags)], Some(&pause)) {
                Ok(0) if left.is_zero() => {
                    return Err(failed(&io::Error::from(io::ErrorKind::TimedOut)));
                }
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(failed(&error)),
            }
        }
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut part = [0; 16 << 10];
        let length = self.events.read(&mut part)?;
        self.unread.extend_from_slice(&part[..length]);
        Ok(length)
    }
}

impl Drop for Conversation<'_> {
    fn drop(&mut self) {
        self.requests = None;
        // It has nothing to finish: unfinished downloads are resumed. Ignore errors: it may have
        // exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks that all paths are inside the source and no path is another's folder. The fetcher is not
/// trusted: it parses what other servers send.
fn validate(snapshot: RemoteSnapshot, files_max: usize) -> Result<RemoteSnapshot, Refusal> {
    let malformed = |message: String| Err(RefusalKind::Malformed.because(message));
    if snapshot.id.len() > ID_BYTES_MAX || snapshot.id.contains(char::is_control) {
        return malformed("the id of the snapshot is too long or not printable".to_owned());
    }
    if snapshot.files.len() > files_max {
        let count = snapshot.files.len();
        return malformed(format!("the source has {count} files; at most {files_max} are allowed"));
    }
    if let Some(file) = snapshot.files.iter().find(|file| !is_inside(&file.path)) {
        return malformed(format!("the source names {:?}, which is outside it", file.path));
    }
    let mut paths = BTreeSet::new();
    if let Some(file) = snapshot.files.iter().find(|file| !paths.insert(file.path.as_str())) {
        return malformed(format!("the source names {:?} twice", file.path));
    }
    for path in &paths {
        let mut folders = path.match_indices('/').map(|(end, _)| &path[..end]);
        if let Some(file) = folders.find(|folder| paths.contains(folder)) {
            return malformed(format!("the source names both {file:?} and {path:?}"));
        }
    }
    Ok(snapshot)
}

fn refusal(error: FetchError) -> Refusal {
    let kind = match error.kind {
        FetchErrorKind::Unreachable => RefusalKind::Unreachable,
        FetchErrorKind::Unauthorized => RefusalKind::Unauthorized,
        FetchErrorKind::NotFound => RefusalKind::NotFound,
        FetchErrorKind::Incomplete => RefusalKind::Incomplete,
        FetchErrorKind::Checksum => RefusalKind::Checksum,
        FetchErrorKind::Malformed | FetchErrorKind::TooLarge | FetchErrorKind::Configuration => {
            RefusalKind::Contract
        }
        FetchErrorKind::Space => RefusalKind::Space,
        FetchErrorKind::Forbidden => RefusalKind::Forbidden,
        FetchErrorKind::Internal => RefusalKind::Internal,
    };
    let retry_after = error.retry_after_seconds.map(Duration::from_secs);
    Refusal { retry_after, ..kind.because(plain(&error.message)) }
}

/// Returns a message without control characters and shortened, because servers choose parts of it.
fn plain(message: &str) -> String {
    let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    let rest = if end < message.len() { "…" } else { "" };
    let is_plain = |c: &char| !c.is_control();
    message[..end].chars().filter(is_plain).chain(rest.chars()).collect()
}

fn failed(error: &dyn std::fmt::Display) -> Refusal {
    RefusalKind::Internal.because(plain(&format!("onnxd-fetch failed: {error}")))
}

#[cfg(test)]
mod tests {
    use onnxd_proto::domain::fetch::{Pin, RemoteFile};

    use super::*;
    use crate::models::sources::source::{Follow, Transfer};

    /// Starts a shell script instead of a fetcher, which keeps running if the result is dropped.
    fn conversation<'p>(script: &str, progress: Progress<'p>) -> Conversation<'p> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (requests, events) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        rustix::io::ioctl_fionbio(&requests, true).unwrap();
        Conversation { child, requests: Some(requests), events, unread: Vec::new(), progress }
    }

    struct CancelSoon(Instant);

    impl Follow for CancelSoon {
        fn report(&self, _: Transfer) {}

        fn is_cancelled(&self) -> bool {
            self.0.elapsed() > CANCEL_TICK
        }
    }

    #[test]
    fn fetcher_that_neither_reads_nor_writes_can_be_cancelled() {
        let begin = Instant::now();
        let progress = CancelSoon(begin);
        let mut silent = conversation("exec sleep 60", &progress);
        // More than the pipe takes.
        let files = vec!["x".repeat(100); 10_000];
        let refusal = silent.download(files, &mut |_, _| {}).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Busy, "{refusal}");
        let refusal = silent.next().unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Busy, "{refusal}");
        drop(silent);
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn requests_larger_than_the_pipe_arrive_whole() {
        let mut counting = conversation("head -n 1 | wc -c; echo '\"downloaded\"'", &|_| {});
        let files = vec!["x".repeat(100); 10_000];
        let line = serde_json::to_vec(&FetchRequest::Download(files.clone())).unwrap();
        counting.send(&FetchRequest::Download(files)).unwrap();
        counting.read().unwrap();
        let count: usize = String::from_utf8_lossy(&counting.unread)
            .lines()
            .next()
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        assert_eq!(count, line.len() + 1);
    }

    fn snapshot(id: &str, paths: &[&str]) -> RemoteSnapshot {
        let file = |path: &&str| RemoteFile { path: (*path).to_owned(), bytes: None, sha256: None };
        let files = paths.iter().map(file).collect();
        RemoteSnapshot { id: id.to_owned(), pin: Pin::Commit, files, notes: Vec::new() }
    }

    #[test]
    fn ids_that_cannot_be_recorded_are_refused() {
        for id in ["a\nb", &"x".repeat(1000)] {
            assert!(validate(snapshot(id, &["a"]), 3).is_err(), "{id}");
        }
    }

    #[test]
    fn messages_are_short_and_printable() {
        let error = FetchErrorKind::NotFound.because(format!("a\x1b[31m\nb{}", "ä".repeat(5000)));
        let message = refusal(error).message;
        assert!(message.starts_with("a[31mbä") && message.ends_with("ä…"), "{message}");
        assert!(message.len() < MESSAGE_BYTES_MAX + 10);
    }

    #[test]
    fn no_path_may_be_the_folder_of_another() {
        let validated = |paths: &[&str]| validate(snapshot("hf:1", paths), 3);
        assert!(validated(&["onnx.json", "onnx/a", "onnx/b"]).is_ok());
        // In order, another path is between the two.
        for paths in [&["onnx", "onnx.json", "onnx/model.onnx"][..], &["a", "b", "a"], &["../a"]] {
            assert_eq!(validated(paths).unwrap_err().kind, RefusalKind::Malformed, "{paths:?}");
        }
    }

    #[test]
    fn refusal_keeps_the_pause_that_the_server_asked_for() {
        let error = FetchErrorKind::Unreachable.because("429");
        assert_eq!(refusal(error.clone()).retry_after, None);
        let invalid = FetchErrorKind::Configuration.because("HF_ENDPOINT");
        assert!(!refusal(invalid).kind.is_transient(), "a start must not wait for it");
        let refusal = refusal(FetchError { retry_after_seconds: Some(90), ..error });
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(90)));
        assert_eq!((refusal.kind, refusal.message.as_str()), (RefusalKind::Unreachable, "429"));
    }
}
