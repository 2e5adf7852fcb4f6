//! `s3://bucket/prefix` and `gs://bucket/prefix`: objects below a prefix. A `SHA256SUMS`, uploaded
//! last, is the snapshot; without one, two equal listings are, if no object is new. `object_store`
//! signs and lists, over our own client.

mod settings;
mod transport;

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, path::Path};
use onnxd_proto::domain::{
    Checksums, RemoteUri,
    fetch::{FetchError, FetchErrorKind, Pin},
};
use percent_encoding::percent_decode_str;

use self::transport::{ServerClock, fetch_error, is_range_ignored};
use crate::{
    client::{Body, Client, SentSecrets, Times},
    digest,
    environment::Environment,
    part::Offset,
    sources::{
        answer::{Opened, Validators},
        checksums,
        source::{File, KnownSnapshot, Snapshot, Source},
    },
};

/// Objects below a prefix.
pub(super) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// The source's URI, for messages.
    uri: String,
    times: Times,
    clock: ServerClock,
    sent: SentSecrets,
}

impl Bucket {
    /// Creates the source. Reads credentials.
    pub(super) fn new(
        uri: &RemoteUri,
        client: Client,
        environment: &Environment,
    ) -> Result<Self, FetchError> {
        let (bucket, prefix) = uri.split();
        let shown = format!("{}://{}", uri.scheme(), uri.location());
        let prefix = percent_decode_str(prefix).decode_utf8_lossy();
        let prefix = Path::parse(&prefix)
            .map_err(|error| FetchErrorKind::Malformed.because(format!("{shown}: {error}")))?;
        let (times, sent) = (client.times(), client.sent());
        let clock = ServerClock::default();
        let store = settings::store(uri.scheme(), bucket, (client, &clock), environment)?;
        Ok(Self { store, prefix, uri: shown, times, clock, sent })
    }

    fn path(&self, file: &str) -> Result<Path, FetchError> {
        let path = format!("{}/{file}", self.prefix);
        Path::parse(&path)
            .map_err(|error| FetchErrorKind::Malformed.because(format!("{path}: {error}")))
    }

    fn error(&self, error: object_store::Error) -> FetchError {
        self.sent.redact_error(fetch_error(&self.uri, error))
    }

    /// Lists all objects below the prefix. Returns when the newest was uploaded, too.
    async fn list(&self, files_max: usize) -> Result<(Vec<File>, SystemTime), FetchError> {
        let mut objects = self.store.list(Some(&self.prefix));
        let (mut files, mut newest) = (Vec::new(), SystemTime::UNIX_EPOCH);
        while let Some(object) = objects.try_next().await.map_err(|error| self.error(error))? {
            newest = newest.max(object.last_modified.into());
            files.extend(self.listed(object)?);
            if files.len() > files_max {
                let message = format!("{}: more than {files_max} objects", self.uri);
                return Err(FetchErrorKind::TooLarge.because(message));
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((without_markers(files), newest))
    }

    /// Fails if an upload to the bucket may still be running, judged by the server's own clock.
    fn check_age(&self, newest: SystemTime) -> Result<(), FetchError> {
        let age = self.clock.now().duration_since(newest).unwrap_or_default();
        let left = self.times.settle.saturating_sub(age);
        if left.is_zero() {
            return Ok(());
        }
        let message = format!(
            "{}: the newest object is {} s old, and an upload without {} counts as complete after {} s",
            self.uri,
            age.as_secs(),
            Checksums::FILE,
            self.times.settle.as_secs()
        );
        let retry_after_seconds = Some(left.as_secs().max(1));
        Err(FetchError { retry_after_seconds, ..FetchErrorKind::Incomplete.because(message) })
    }

    /// Returns the file of an object. `None` if it only marks a folder.
    fn listed(&self, object: ObjectMeta) -> Result<Option<File>, FetchError> {
        let key = object.location.as_ref();
        let path = key.strip_prefix(self.prefix.as_ref()).and_then(|path| path.strip_prefix('/'));
        match path {
            Some(path) if object.e_tag.is_some() => Ok(Some(File {
                path: path.to_owned(),
                bytes: Some(object.size),
                digest: None,
                identity: object.e_tag,
            })),
            None if object.size == 0 => Ok(None),
            _ => {
                let message = format!("{}: the listing contains {key:?} without ETag", self.uri);
                Err(FetchErrorKind::Malformed.because(message))
            }
        }
    }

    /// Resolves a source without `SHA256SUMS`.
    async fn resolve_listing(
        &self,
        known: &KnownSnapshot,
        files_max: usize,
    ) -> Result<Option<Snapshot>, FetchError> {
        let (files, newest) = self.list(files_max).await?;
        if files.is_empty() {
            let message = format!("{}: no objects below this prefix", self.uri);
            return Err(FetchErrorKind::NotFound.because(message));
        }
        if files.iter().any(|file| file.path == Checksums::FILE) {
            let message = format!("{}: {} has just been uploaded", self.uri, Checksums::FILE);
            return Err(FetchErrorKind::Incomplete.because(message));
        }
        let id = listing_id(&files);
        if known.id.as_ref() == Some(&id) {
            return Ok(None);
        }
        self.check_age(newest)?;
        tokio::time::sleep(self.times.pause).await;
        if self.list(files_max).await?.0 != files {
            let message = format!("{}: the objects changed between two listings", self.uri);
            return Err(FetchErrorKind::Incomplete.because(message));
        }
        let note = format!(
            "{}: no {}, so an upload that pauses between files looks complete; upload one last",
            self.uri,
            Checksums::FILE
        );
        let validators = Validators::default();
        Ok(Some(Snapshot {
            id,
            pin: Pin::Listing,
            files,
            archives: Vec::new(),
            notes: vec![note],
            validators,
        }))
    }
}

/// Leaves out objects that mark folders: empty ones above others. `object_store` drops the slash at
/// the end of their names.
fn without_markers(files: Vec<File>) -> Vec<File> {
    let parents = files
        .iter()
        .flat_map(|file| file.path.match_indices('/').map(|(end, _)| &file.path[..end]));
    let folders: BTreeSet<String> = parents.map(str::to_owned).collect();
    let is_marker = |file: &File| file.bytes == Some(0) && folders.contains(&file.path);
    files.into_iter().filter(|file| !is_marker(file)).collect()
}

/// Returns the id of a listing: a digest of all names, lengths and ETags.
fn listing_id(files: &[File]) -> String {
    let lines: String = files
        .iter()
        .map(|file| {
            let (bytes, etag) = (file.bytes.unwrap_or(0), file.identity.as_deref().unwrap_or(""));
            format!("{}\0{bytes}\0{etag}\n", file.path)
        })
        .collect();
    format!("listing:{}", digest::sha256(lines.as_bytes()))
}

#[async_trait(?Send)]
impl Source for Bucket {
    async fn resolve(
        &self,
        known: &KnownSnapshot,
        files_max: usize,
    ) -> Result<Option<Snapshot>, FetchError> {
        let path = self.path(Checksums::FILE)?;
        let if_none_match = known.validators.etag.clone();
        let options = GetOptions { if_none_match, ..GetOptions::default() };
        let found = match self.store.get_opts(&path, options).await {
            Err(object_store::Error::NotModified { .. }) => return Ok(None),
            Err(object_store::Error::NotFound { .. }) => {
                // The weaker pin must not replace the stronger one while an upload runs.
                if known.id.as_ref().is_some_and(|id| id.starts_with(checksums::ID_PREFIX)) {
                    let message = format!(
                        "{}: {} of the last version is missing; is an upload running? Upload the \
                         file again, after all others",
                        self.uri,
                        Checksums::FILE
                    );
                    return Err(FetchErrorKind::Incomplete.because(message));
                }
                return self.resolve_listing(known, files_max).await;
            }
            Err(error) => return Err(self.error(error)),
            Ok(found) => found,
        };
        let validators = Validators::of_etag(found.meta.e_tag.clone());
        let from = format!("{}/{}", self.uri, Checksums::FILE);
        let uri = self.uri.clone();
        let stream = found.into_stream().map_err(move |error| fetch_error(&uri, error));
        let bytes = Body::of_stream(Box::pin(stream)).all(Checksums::BYTES_MAX).await?;
        checksums::snapshot(&bytes, &from, validators).map(Some)
    }

    async fn signature(&self, snapshot: &Snapshot) -> Result<Vec<File>, FetchError> {
        // A listing has it already.
        if snapshot.pin != Pin::Checksums {
            return Ok(Vec::new());
        }
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.store.get_opts(&self.path(Checksums::SIGNATURE)?, options).await {
            Ok(found) => {
                Ok(checksums::signature(snapshot, Some(found.meta.size), found.meta.e_tag))
            }
            // S3 answers 403 for missing objects to those who may not list.
            Err(
                object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. },
            ) => Ok(Vec::new()),
            Err(error) => Err(self.error(error)),
        }
    }

    async fn stat(&self, file: &mut File) -> Result<(), FetchError> {
        if file.bytes.is_some() {
            return Ok(());
        }
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.store.get_opts(&self.path(&file.path)?, options).await {
            Ok(found) => file.bytes = Some(found.meta.size),
            Err(object_store::Error::NotFound { .. }) => {
                return Err(checksums::listed_but_missing(&file.path));
            }
            // A key may allow GET and not HEAD.
            Err(error) => tracing::debug!(error = %self.error(error), "HEAD failed"),
        }
        Ok(())
    }

    async fn open(&self, file: &File, from: &Offset) -> Result<Opened, FetchError> {
        let if_match = file.identity.clone().or_else(|| from.validator.clone());
        let range = (from.bytes > 0).then_some(GetRange::Offset(from.bytes));
        let whole = GetOptions { if_match, ..GetOptions::default() };
        let path = self.path(&file.path)?;
        let found = match range {
            None => self.store.get_opts(&path, whole).await,
            Some(_) => {
                match self.store.get_opts(&path, GetOptions { range, ..whole.clone() }).await {
                    Err(error) if is_range_ignored(&error) => {
                        self.store.get_opts(&path, whole).await
                    }
                    found => found,
                }
            }
        };
        let found = match found {
            Err(object_store::Error::NotFound { .. }) => {
                return Err(checksums::listed_but_missing(&file.path));
            }
            found => found.map_err(|error| self.error(error))?,
        };
        let uri = self.uri.clone();
        let (start, total) = (found.range.start, Some(found.meta.size));
        let validator = Validators::of_etag(found.meta.e_tag.clone()).strong();
        let stream = found.into_stream().map_err(move |error| fetch_error(&uri, error));
        Ok(Opened {
            start,
            total,
            validator,
            digest: None,
            body: Body::of_stream(Box::pin(stream)),
        })
    }
}
