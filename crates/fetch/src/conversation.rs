//! Answers the supervisor's requests about one source.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, time::Instant};

use onnxd_proto::domain::{
    SourceUri,
    fetch::{FetchError, FetchErrorKind, FetchEvent, FetchRequest, RemoteSnapshot, Resolve},
    is_inside,
};

use crate::{
    client::{Client, SentSecrets, Times},
    download::{Download, Progress},
    environment::Environment,
    folder::{Folder, OWN},
    sources::{self, File, KnownSnapshot, Snapshot, Source, UnpackTarget},
    state::State,
};

/// Surroundings of a fetch.
#[derive(Debug)]
pub struct Options {
    /// The directory to download into.
    pub directory: PathBuf,
    /// Settings and credentials.
    pub environment: Environment,
    /// Limits of time.
    pub times: Times,
}

/// A conversation about one source.
pub struct Conversation {
    about: Resolve,
    source: Box<dyn Source>,
    folder: Folder,
    state: State,
    snapshot: Option<Snapshot>,
    times: Times,
    sent: SentSecrets,
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Conversation").field("about", &self.about).finish_non_exhaustive()
    }
}

impl Conversation {
    /// Prepares to answer requests about a source: reads credentials and what an earlier fetch
    /// left. Asks no server yet.
    ///
    /// # Errors
    /// The source is invalid, or a setting is missing or invalid.
    pub fn begin(about: Resolve, options: &Options) -> Result<Self, FetchError> {
        let uri = match about.source.parse() {
            Ok(SourceUri::Remote(uri)) => uri,
            Ok(SourceUri::Directory { .. }) => {
                let message = format!("{}: not a source on another server", about.source);
                return Err(FetchErrorKind::Malformed.because(message));
            }
            Err(error) => return Err(FetchErrorKind::Malformed.because(error.to_string())),
        };
        let folder = Folder::open(&options.directory).map_err(|error| {
            let message = format!("{}: {error}", options.directory.display());
            FetchErrorKind::Internal.because(message)
        })?;
        let client = Client::new(&options.environment, options.times, about.allows_private)?;
        let sent = client.sent();
        let source = sources::of(&uri, client, &options.environment)?;
        let state = State::load(&folder, &about.source);
        Ok(Self { about, source, folder, state, snapshot: None, times: options.times, sent })
    }

    /// Answers a request. All events but the last go to `emit`.
    ///
    /// # Errors
    /// Returns why the request failed. The conversation is over then.
    pub async fn answer(
        &mut self,
        request: FetchRequest,
        emit: &mut dyn FnMut(FetchEvent),
    ) -> Result<FetchEvent, FetchError> {
        let answer = match request {
            FetchRequest::Resolve(about) => self.resolve(about, emit).await,
            FetchRequest::Download(paths) => self.download(&paths, emit).await,
        };
        answer.map_err(|error| self.sent.redact_error(error))
    }

    async fn resolve(
        &mut self,
        about: Resolve,
        emit: &mut dyn FnMut(FetchEvent),
    ) -> Result<FetchEvent, FetchError> {
        if about.source != self.about.source || about.allows_private != self.about.allows_private {
            let message = "a conversation is about one source; start another process";
            return Err(FetchErrorKind::Internal.because(message));
        }
        self.about = about;
        let mut known = KnownSnapshot { id: self.about.known.clone(), ..KnownSnapshot::default() };
        if known.id.as_ref() == Some(&self.state.id) {
            known.validators = self.state.validators.clone();
        }
        let files_max = self.about.files_max;
        let Some(mut snapshot) = self.source.resolve(&known, files_max).await? else {
            return Ok(FetchEvent::Unchanged);
        };
        let has_news = self.state.id != snapshot.id || self.state.validators != snapshot.validators;
        if has_news {
            self.state.id.clone_from(&snapshot.id);
            self.state.validators = snapshot.validators.clone();
            self.state.save(&self.folder);
        }
        if self.about.known.as_ref() == Some(&snapshot.id) {
            return Ok(FetchEvent::Unchanged);
        }
        if self.about.id_only {
            let Snapshot { id, pin, notes, .. } = snapshot;
            return Ok(FetchEvent::Snapshot(RemoteSnapshot { id, pin, files: Vec::new(), notes }));
        }
        if !snapshot.archives.is_empty() {
            let progress = Progress::new(emit);
            // Their files replace those of the state when they are downloaded.
            let mut state = State::default();
            // An image may have a layer twice.
            let archives: BTreeMap<_, _> =
                snapshot.archives.iter().map(|archive| (&archive.path, archive.clone())).collect();
            self.files(&snapshot, &mut state, archives.into_values().collect(), &progress).await?;
            let bytes_max = self.about.bytes_max;
            let target = UnpackTarget {
                folder: &self.folder,
                bytes_max,
                files_max,
                tick: &|| progress.tick(),
            };
            snapshot = self.source.unpack(snapshot, &target).await?;
        }
        if self.about.wants_signature {
            snapshot.files.extend(self.source.signature(&snapshot).await?);
        }
        self.check(&mut snapshot)?;
        let event = FetchEvent::Snapshot(RemoteSnapshot {
            id: snapshot.id.clone(),
            pin: snapshot.pin,
            files: snapshot.files.iter().map(Into::into).collect(),
            notes: snapshot.notes.clone(),
        });
        self.snapshot = Some(snapshot);
        Ok(event)
    }

    /// Sorts the files, and refuses those outside the source and too many.
    fn check(&self, snapshot: &mut Snapshot) -> Result<(), FetchError> {
        let source = &self.about.source;
        if snapshot.files.len() > self.about.files_max {
            let (files, max) = (snapshot.files.len(), self.about.files_max);
            let message = format!("{source}: {files} files; at most {max} are allowed");
            return Err(FetchErrorKind::TooLarge.because(message));
        }
        snapshot.files.sort_by(|a, b| a.path.cmp(&b.path));
        let malformed =
            |reason: String| Err(FetchErrorKind::Malformed.because(format!("{source}: {reason}")));
        for file in &snapshot.files {
            if !is_inside(&file.path) || file.path.split('/').next() == Some(OWN) {
                return malformed(format!("the path {:?} is not allowed", file.path));
            }
        }
        let twice = snapshot.files.windows(2).find(|pair| pair[0].path == pair[1].path);
        twice.map_or(Ok(()), |pair| malformed(format!("{} is listed twice", pair[0].path)))
    }

    async fn download(
        &mut self,
        paths: &[String],
        emit: &mut dyn FnMut(FetchEvent),
    ) -> Result<FetchEvent, FetchError> {
        let internal = |message: String| FetchErrorKind::Internal.because(message);
        let Some(snapshot) = self.snapshot.take() else {
            return Err(internal(
                "resolve the source before a download, without `known`".to_owned(),
            ));
        };
        let mut files = BTreeMap::new();
        for path in paths {
            let found = snapshot.files.iter().find(|file| file.path == *path);
            let found = found.ok_or_else(|| internal(format!("{path} is not in the snapshot")))?;
            files.insert(path, found.clone());
        }
        let mut state = std::mem::take(&mut self.state);
        let (progress, files) = (Progress::new(emit), files.into_values().collect());
        let result = self.files(&snapshot, &mut state, files, &progress).await;
        state.save(&self.folder);
        (self.state, self.snapshot) = (state, Some(snapshot));
        result.map(|()| FetchEvent::Downloaded)
    }

    async fn files(
        &self,
        snapshot: &Snapshot,
        state: &mut State,
        files: Vec<File>,
        progress: &Progress<'_>,
    ) -> Result<(), FetchError> {
        let download = Download {
            source: &*self.source,
            snapshot,
            folder: &self.folder,
            state: RefCell::new(state),
            progress,
            bytes_max: self.about.bytes_max,
            files_max: self.about.files_max,
            times: self.times,
            started: Instant::now(),
            sent: &self.sent,
        };
        let result = download.run(files).await;
        progress.finish();
        result
    }
}
