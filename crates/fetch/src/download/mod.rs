//! Downloads files of a snapshot into the working directory: several at once, resumed where an
//! earlier attempt stopped, verified while they are written, and renamed into place when complete.

mod progress;

use std::{
    cell::RefCell,
    fs::File as LocalFile,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use onnxd_proto::domain::fetch::{FetchError, FetchErrorKind};
use ring::digest::{Context, SHA256};
use rustix::io::Errno;

pub(crate) use self::progress::Progress;
use crate::{
    client::{SentSecrets, Times},
    digest::{self, Digest},
    folder::{Folder, OWN, SPARE_BYTES},
    part::{Expected, Part},
    sources::{File, Opened, Snapshot, Source},
    state::{self, DownloadedFile, State},
};

/// Files downloaded at once.
const PARALLEL: usize = 4;
/// Attempts to download one file, if the connection breaks without progress.
const ATTEMPTS: u32 = 3;
/// Bytes that an attempt must add to count as progress.
const PROGRESS_BYTES_MIN: u64 = 1 << 20;

/// Downloads files of one snapshot.
pub(crate) struct Download<'a, 'p> {
    pub(crate) source: &'a dyn Source,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) folder: &'a Folder,
    pub(crate) state: RefCell<&'a mut State>,
    pub(crate) progress: &'a Progress<'p>,
    /// Maximum bytes of all files.
    pub(crate) bytes_max: u64,
    /// Maximum files of a snapshot.
    pub(crate) files_max: usize,
    pub(crate) times: Times,
    pub(crate) started: Instant,
    /// What the log must not repeat.
    pub(crate) sent: &'a SentSecrets,
}

impl Download<'_, '_> {
    /// Downloads the files that are not there yet.
    ///
    /// # Errors
    /// A limit is exceeded, or a file cannot be downloaded or differs from the snapshot.
    pub(crate) async fn run(&self, files: Vec<File>) -> Result<(), FetchError> {
        self.prune();
        let missing = stream::iter(files).map(|file| self.missing(file)).buffered(PARALLEL);
        let missing: Vec<Option<File>> = missing.try_collect().await?;
        let missing: Vec<File> = missing.into_iter().flatten().collect();
        let total = missing.iter().filter_map(|file| file.bytes).try_fold(0, u64::checked_add);
        self.progress.start(total.unwrap_or(u64::MAX));
        self.check_limits(missing.iter().map(|file| Part::bytes(self.folder, &file.path)).sum())?;
        let files = stream::iter(missing).map(|file| self.file(file)).buffer_unordered(PARALLEL);
        files.try_collect::<()>().await?;
        self.source.confirm(self.snapshot, self.files_max).await
    }

    /// Removes what earlier snapshots left behind.
    fn prune(&self) {
        let mut state = self.state.borrow_mut();
        let all = || self.snapshot.files.iter().chain(&self.snapshot.archives);
        let is_listed = |path: &str| all().any(|file| file.path == path);
        state.files.retain(|path, _| {
            let is_kept = is_listed(path);
            if !is_kept && self.folder.remove(path).is_ok() {
                self.folder.remove_empty_folders(path);
            }
            is_kept
        });
        let parts: Vec<String> = all().map(|file| Part::name(&file.path)).collect();
        for name in self.folder.own_names() {
            let path = format!("{OWN}/{name}");
            let is_stale = match name.rsplit_once('.') {
                Some((part, "part" | "json")) => !parts.iter().any(|known| known == part),
                _ => !is_listed(&path),
            };
            if is_stale && name != state::FILE {
                let _ = self.folder.remove(&path);
            }
        }
    }

    /// Returns the file with its length, unless it was downloaded before.
    async fn missing(&self, mut file: File) -> Result<Option<File>, FetchError> {
        if self.is_there(&file).await.map_err(|error| local(&file.path, &error))? {
            return Ok(None);
        }
        self.check_time()?;
        if file.bytes.is_none() || file.digest.is_none() {
            let digest = file.digest.clone();
            self.source.stat(&mut file).await?;
            let has_news = file.digest != digest;
            if has_news && self.is_there(&file).await.map_err(|error| local(&file.path, &error))? {
                return Ok(None);
            }
        }
        Ok(Some(file))
    }

    async fn is_there(&self, file: &File) -> io::Result<bool> {
        let known = self.state.borrow().files.get(&file.path).cloned();
        // Without a digest, the identity shows whether the file is the one that was downloaded.
        let known = known
            .filter(|downloaded| file.identity.is_some() && downloaded.identity == file.identity);
        let expected =
            file.digest.clone().or(known.map(|downloaded| Digest::Sha256(downloaded.sha256)));
        let Some(expected) = expected else { return Ok(false) };
        let Some(mut found) = self.folder.read(&file.path)? else { return Ok(false) };
        let length = found.metadata()?.len();
        let is_there = file.bytes.is_none_or(|bytes| bytes == length)
            && self.has_digest(&expected, &mut found).await?;
        if is_there && let Digest::Sha256(sha256) = expected {
            self.record(file, sha256);
        }
        Ok(is_there)
    }

    /// Returns whether a local file has a digest.
    async fn has_digest(&self, expected: &Digest, file: &mut LocalFile) -> io::Result<bool> {
        digest::is_of_file(expected, file, &|| self.progress.tick()).await
    }

    fn record(&self, file: &File, sha256: String) {
        let downloaded = DownloadedFile { sha256, identity: file.identity.clone() };
        self.state.borrow_mut().files.insert(file.path.clone(), downloaded);
    }

    /// Compares what is to be downloaded with the limit and the disk, of which parts already have
    /// some.
    fn check_limits(&self, present: u64) -> Result<(), FetchError> {
        let total = self.progress.total();
        if total > self.bytes_max {
            let message =
                format!("{total} bytes to download; at most {} are allowed", self.bytes_max);
            return Err(FetchErrorKind::TooLarge.because(message));
        }
        let free = self.folder.free_bytes().map_err(|error| local(".", &error))?;
        let needed = total.saturating_sub(present).saturating_sub(self.progress.bytes());
        match needed.saturating_add(SPARE_BYTES) > free {
            true => Err(FetchErrorKind::Space.because(format!(
                "{needed} bytes to download, and {free} bytes are free on the disk of the state directory"
            ))),
            false => Ok(()),
        }
    }

    /// Fails if the download takes too long for its bytes. The next process resumes it.
    fn check_time(&self) -> Result<(), FetchError> {
        let bytes = self.progress.total().max(self.progress.bytes());
        let limit = Duration::from_secs(bytes / self.times.download_rate);
        let limit = limit.saturating_add(self.times.download);
        match self.started.elapsed() > limit {
            true => Err(FetchErrorKind::Unreachable.because(format!(
                "the download of {bytes} bytes took longer than {} s",
                limit.as_secs()
            ))),
            false => Ok(()),
        }
    }

    /// Downloads a file, and resumes it if the connection breaks.
    async fn file(&self, file: File) -> Result<(), FetchError> {
        let (mut attempt, mut furthest) = (1, Part::bytes(self.folder, &file.path));
        loop {
            let result = self.attempt(&file).await;
            let reached = Part::bytes(self.folder, &file.path);
            if reached >= furthest + PROGRESS_BYTES_MIN {
                (attempt, furthest) = (1, reached);
            }
            match result {
                Err(error)
                    if error.kind == FetchErrorKind::Unreachable
                        && error.retry_after_seconds.is_none()
                        && attempt < ATTEMPTS
                        && self.check_time().is_ok() =>
                {
                    let error = self.sent.redact(&error.message);
                    tracing::info!(path = file.path, attempt, error, "resuming a broken download");
                    tokio::time::sleep(self.times.pause * attempt).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn attempt(&self, file: &File) -> Result<(), FetchError> {
        let broken = |error: io::Error| local(&file.path, &error);
        let mut sha256 = Context::new(&SHA256);
        let expected = Expected {
            identity: match (&file.digest, &file.identity) {
                (Some(Digest::Sha256(hex) | Digest::GitBlob(hex)), _) => hex,
                (None, Some(identity)) => identity,
                (None, None) => &self.snapshot.id,
            },
            is_verified: file.digest.is_some(),
            bytes: file.bytes,
        };
        let mut part = Part::open(self.folder, &file.path, expected).map_err(broken)?;
        let tick = || self.progress.tick();
        digest::add(&mut sha256, &mut part.file, &tick).await.map_err(broken)?;
        let was_resumed = part.offset.bytes > 0;
        self.progress.add(part.offset.bytes);
        let result = self.complete(file, &mut part, &mut sha256).await;
        if let Err(error) = result {
            self.progress.subtract(part.offset.bytes);
            // The server may have refused the range, or the part may belong to other bytes.
            let is_stale = was_resumed
                && !matches!(error.kind, FetchErrorKind::Unauthorized | FetchErrorKind::Space);
            return Err(match error.kind {
                FetchErrorKind::Unreachable => error,
                _ if is_stale => {
                    part.discard(self.folder);
                    FetchErrorKind::Unreachable.because(error.message)
                }
                FetchErrorKind::Checksum | FetchErrorKind::Incomplete => {
                    part.discard(self.folder);
                    error
                }
                _ => error,
            });
        }
        part.finish(self.folder, &file.path).map_err(broken)?;
        self.record(file, digest::hex(sha256));
        Ok(())
    }

    /// Downloads the rest of a file and verifies the whole.
    async fn complete(
        &self,
        file: &File,
        part: &mut Part,
        sha256: &mut Context,
    ) -> Result<(), FetchError> {
        let broken = |error: io::Error| local(&file.path, &error);
        let mut expected = file.digest.clone();
        if file.bytes.is_none_or(|bytes| part.offset.bytes < bytes) {
            let opened = self.source.open(file, &part.offset).await?;
            expected = expected.or_else(|| opened.digest.clone());
            if opened.start != part.offset.bytes {
                self.progress.subtract(part.offset.bytes);
                part.restart().map_err(broken)?;
                *sha256 = Context::new(&SHA256);
            }
            self.receive(file, opened, part, sha256).await?;
        }
        let is_right = match &expected {
            None => true,
            Some(Digest::Sha256(hex)) => digest::hex(sha256.clone()) == *hex,
            Some(git) => self.has_digest(git, &mut part.file).await.map_err(broken)?,
        };
        match is_right {
            true => Ok(()),
            false => {
                Err(self.differs(file, "its digest differs from the one that the source states"))
            }
        }
    }

    async fn receive(
        &self,
        file: &File,
        mut opened: Opened,
        part: &mut Part,
        sha256: &mut Context,
    ) -> Result<(), FetchError> {
        let total = match (file.bytes, opened.total) {
            (Some(stated), Some(sent)) if stated != sent => {
                return Err(self.differs(file, &format!("it has {sent} bytes, expected {stated}")));
            }
            (stated, sent) => stated.or(sent),
        };
        if file.bytes.is_none() {
            self.progress.announce(&file.path, total.unwrap_or(0));
            self.check_limits(0)?;
        }
        part.remember(self.folder, total, opened.validator.take())
            .map_err(|error| local(&file.path, &error))?;
        while let Some(chunk) = opened.body.chunk().await? {
            self.check_time()?;
            let end = part.offset.bytes + chunk.len() as u64;
            if total.is_some_and(|total| end > total) {
                return Err(self.differs(file, "it is longer than the source states"));
            }
            if self.progress.bytes() + chunk.len() as u64 > self.bytes_max {
                let message = format!("{}: more than {} bytes", file.path, self.bytes_max);
                return Err(FetchErrorKind::TooLarge.because(message));
            }
            self.write(part, &chunk).map_err(|error| local(&file.path, &error))?;
            sha256.update(&chunk);
        }
        match total {
            Some(total) if part.offset.bytes < total => {
                let message = format!(
                    "{}: connection closed after {} of {total} bytes",
                    file.path, part.offset.bytes
                );
                Err(FetchErrorKind::Unreachable.because(message))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, part: &mut Part, chunk: &Bytes) -> io::Result<()> {
        part.file.write_all(chunk)?;
        part.offset.bytes += chunk.len() as u64;
        self.progress.add(chunk.len() as u64);
        Ok(())
    }

    fn differs(&self, file: &File, reason: &str) -> FetchError {
        let kind = self.snapshot.mismatch();
        let advice = match kind {
            FetchErrorKind::Incomplete => "is an upload running?",
            _ => "upload it again",
        };
        kind.because(format!("{}: {reason}; {advice}", file.path))
    }
}

/// Converts an error of the local file system.
fn local(path: &str, error: &io::Error) -> FetchError {
    let kind = match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => FetchErrorKind::Space,
        Some(Errno::FBIG) => FetchErrorKind::TooLarge,
        _ => FetchErrorKind::Internal,
    };
    kind.because(format!("download directory: {path}: {error}"))
}
