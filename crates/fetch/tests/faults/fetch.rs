//! A fetch in this process, with short limits of time.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use onnxd_fetch::{Conversation, Environment, Options, Times};
use onnxd_proto::domain::fetch::{
    FetchError, FetchErrorKind, FetchEvent, FetchRequest, RemoteSnapshot, Resolve,
};
use ring::digest::{SHA256, digest};
use tempfile::TempDir;

/// A source with a download directory.
pub(crate) struct Fetch {
    pub(crate) about: Resolve,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) times: Times,
    pub(crate) directory: TempDir,
}

impl Fetch {
    /// Prepares a fetch of a source.
    pub(crate) fn of(source: impl Into<String>) -> Self {
        let about = Resolve {
            source: source.into(),
            known: None,
            allows_private: true,
            wants_signature: false,
            id_only: false,
            bytes_max: 64 << 20,
            files_max: 100,
        };
        let times = Times {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(5),
            pause: Duration::from_millis(10),
            ..Times::default()
        };
        let (variables, directory) = (BTreeMap::new(), tempfile::tempdir().unwrap());
        Self { about, variables, times, directory }
    }

    /// Sets an environment variable.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Resolves the source and downloads all its files.
    pub(crate) fn all(&self) -> Result<RemoteSnapshot, FetchError> {
        let (snapshot, _) = self.run(true)?;
        Ok(snapshot.expect("a snapshot"))
    }

    /// Resolves the source. `None` means unchanged.
    pub(crate) fn resolve(&self) -> Result<Option<RemoteSnapshot>, FetchError> {
        self.run(false).map(|(snapshot, _)| snapshot)
    }

    /// Resolves the source, downloads all files, and returns the error of that.
    pub(crate) fn fails(&self) -> FetchError {
        self.all().expect_err("a failure")
    }

    /// Resolves the source, and returns the error's kind.
    pub(crate) fn kind(&self) -> FetchErrorKind {
        self.fails().kind
    }

    fn run(
        &self,
        downloads: bool,
    ) -> Result<(Option<RemoteSnapshot>, Vec<FetchEvent>), FetchError> {
        let options = Options {
            directory: self.directory.path().to_owned(),
            environment: Environment::new(self.variables.clone()),
            times: self.times,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut conversation = Conversation::begin(self.about.clone(), &options)?;
            let mut events = Vec::new();
            let mut emit = |event| events.push(event);
            let request = FetchRequest::Resolve(self.about.clone());
            let snapshot = match conversation.answer(request, &mut emit).await? {
                FetchEvent::Snapshot(snapshot) => snapshot,
                _ => return Ok((None, events)),
            };
            if downloads {
                let paths = snapshot.files.iter().map(|file| file.path.clone()).collect();
                let done = conversation.answer(FetchRequest::Download(paths), &mut emit).await?;
                assert_eq!(done, FetchEvent::Downloaded);
            }
            Ok((Some(snapshot), events))
        })
    }

    /// Returns a downloaded file.
    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.directory.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Returns the paths of all files except the fetcher's own.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        collect(self.directory.path(), "", &mut files);
        files.sort();
        files
    }

    /// Returns the names of parts that were left.
    pub(crate) fn parts(&self) -> Vec<String> {
        let entries =
            fs::read_dir(self.directory.path().join(".onnxd-fetch")).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".part")).collect()
    }
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.file_type().unwrap().is_dir() {
            true if name != ".onnxd-fetch" => collect(&entry.path(), &format!("{name}/"), files),
            true => {}
            false => files.push(name),
        }
    }
}

/// Returns the SHA-256 of bytes in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the `SHA256SUMS` of files.
pub(crate) fn checksums(files: &[(&str, &[u8])]) -> String {
    files.iter().map(|(path, bytes)| format!("{}  {path}\n", sha256(bytes))).collect()
}

/// Returns bytes that do not repeat soon.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}
