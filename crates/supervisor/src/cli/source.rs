//! Runs `onnxd source` and `onnxd fetch`, which read a source like an update, without a server.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use onnxd_engine::{
    models::{
        sources::{Sources, Transfer},
        store::{Store, export::Export},
    },
    pool::executable::WorkerExecutable,
};
use onnxd_proto::{
    domain::{Refusal, SourceUri, Step, fetch::Pin},
    exit::{ExitStatus, Failure},
};
use onnxd_telemetry::log;
use serde::Serialize;

use super::{
    FetchArguments, SourceArguments,
    arguments::ReadingArguments,
    check, print_line,
    progress::{Display, short},
    status::table,
    update::refused,
};
use crate::{
    config,
    process::{confinement, signals::Signals},
};

/// How long an interrupted download may take to end.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Prints what a source holds.
///
/// # Errors
/// The source cannot be read, or the installation is invalid.
pub(crate) fn main(arguments: &SourceArguments) -> Result<ExitStatus, Failure> {
    log::init_quiet().map_err(|error| Failure::configuration(error.to_string()))?;
    let uri = check::source(&arguments.source)?;
    let folder = temporary(&std::env::temp_dir())?;
    let export = read(&arguments.reading, &uri, folder.path(), Ok)?;
    let content = Content::new(&uri, &export, None);
    if arguments.reading.json {
        print_line(&content.json());
    } else {
        content.print();
    }
    Ok(ExitStatus::Success)
}

/// Downloads a source's content into a directory.
///
/// # Errors
/// The source cannot be read, the directory is not empty or cannot be written to, or the installation is invalid.
pub(crate) fn fetch(arguments: &FetchArguments) -> Result<ExitStatus, Failure> {
    log::init_quiet().map_err(|error| Failure::configuration(error.to_string()))?;
    let started = Instant::now();
    let uri = check::source(&arguments.source)?;
    let directory = &arguments.directory;
    // Reports a deleted current directory.
    config::absolute("DIR", directory)?;
    let was_missing = prepare(directory)?;
    // On the directory's file system, so that the files can be moved.
    let folder = temporary(directory)?;
    let target = directory.clone();
    let read = read(&arguments.reading, &uri, folder.path(), move |export| {
        export.move_to(&target)?;
        Ok(export)
    });
    drop(folder);
    if read.is_err() && was_missing {
        // Fails if it is not empty.
        let _ = fs::remove_dir(directory);
    }
    let export = read?;
    let content = Content::new(&uri, &export, Some(directory));
    if arguments.reading.json {
        print_line(&content.json());
    } else {
        print_line(&content.summary(directory, started.elapsed()));
    }
    Ok(ExitStatus::Success)
}

/// Creates the directory, or checks that it is empty. Returns whether it was missing.
fn prepare(directory: &Path) -> Result<bool, Failure> {
    let failed = |reason: &dyn std::fmt::Display| {
        Failure::configuration(format!("{}: {reason}", directory.display()))
    };
    match fs::read_dir(directory).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(false),
        Ok(false) => Err(failed(&"the directory is not empty; pass an empty or a missing one")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(directory).map(|()| true).map_err(|error| failed(&error))
        }
        Err(error) => Err(failed(&error)),
    }
}

/// Creates a directory for a temporary store.
fn temporary(parent: &Path) -> Result<tempfile::TempDir, Failure> {
    tempfile::Builder::new().prefix(".onnxd-fetch-").tempdir_in(parent).map_err(|error| {
        let parent = parent.display();
        Failure::configuration(format!("{parent}: cannot create a temporary directory: {error}"))
    })
}

/// Reads a source into a store in `folder`, and passes its content to `then` on the same thread.
fn read(
    arguments: &ReadingArguments,
    uri: &SourceUri,
    folder: &Path,
    then: impl FnOnce(Export) -> Result<Export, Refusal> + Send + 'static,
) -> Result<Export, Failure> {
    let store = Store::open(folder, 1, sources(arguments, uri)?, None)?;
    confinement::drop_privileges();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("cannot start the async runtime: {error}")))?;
    let display = Arc::new(Display::new(!arguments.json, ""));
    let (shown, uri) = (Arc::clone(&display), uri.clone());
    let work = move || {
        let progress = |Transfer { bytes, total, .. }| {
            shown.show(&Step::Staging { bytes, of: total });
        };
        store.export(&uri, &progress).and_then(then)
    };
    let result = runtime.block_on(async {
        let mut signals =
            Signals::install().map_err(|error| Failure::internal(error.to_string()))?;
        tokio::select! {
            result = tokio::task::spawn_blocking(work) => {
                let result = result.map_err(|error| Failure::internal(error.to_string()))?;
                result.map_err(|refusal| refused(&refusal))
            }
            () = signals.stop() => Err(Failure::refused("interrupted")),
        }
    });
    display.finish();
    // Its thread may still write into the folder, which is removed next.
    runtime.shutdown_timeout(CLEAN_UP_TIMEOUT);
    result
}

fn sources(arguments: &ReadingArguments, uri: &SourceUri) -> Result<Sources, Failure> {
    let sandbox = !arguments.no_sandbox.unwrap_or(false);
    let given = arguments.worker_binary.clone();
    let binary = config::executable_file("--worker-binary", given, "onnxd-worker")?;
    // Listing a model's files needs no ONNX Runtime.
    let executable = WorkerExecutable::open(&binary, Path::new("libonnxruntime.so"), sandbox)
        .map_err(|error| Failure::configuration(format!("--worker-binary: {error}")))?;
    let fetcher = check::fetcher(arguments.fetch_binary.as_ref(), sandbox, &[Some(uri)])?;
    Ok(Sources::new(executable, fetcher))
}

/// What a source holds. The JSON form is part of the interface.
#[derive(Debug, Serialize)]
struct Content {
    source: String,
    snapshot: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<Pin>,
    version: String,
    bytes: u64,
    files: Vec<ContentFile>,
    /// Where the files are now.
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct ContentFile {
    path: String,
    bytes: u64,
    sha256: String,
}

impl Content {
    fn new(uri: &SourceUri, export: &Export, directory: Option<&Path>) -> Self {
        let files = export.files.iter().cloned();
        let files = files.map(|file| ContentFile {
            path: file.path,
            bytes: file.bytes,
            sha256: file.sha256,
        });
        Self {
            source: uri.to_string(),
            snapshot: export.snapshot.as_str().to_owned(),
            pin: export.pin,
            version: export.version.clone(),
            bytes: export.bytes,
            files: files.collect(),
            directory: directory.map(Path::to_owned),
        }
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("names are strings and all numbers are finite")
    }

    /// Prints the content as text.
    fn print(&self) {
        self.head().iter().for_each(|line| print_line(line));
        print_line("");
        let row = |file: &ContentFile| {
            vec![file.sha256.clone(), file.bytes.to_string(), file.path.clone()]
        };
        table(&["SHA-256", "BYTES", "FILE"], self.files.iter().map(row).collect());
    }

    fn head(&self) -> Vec<String> {
        // A directory's id is of use only to the process that made it.
        let pinned = self.pin.map(|pin| format!("{} (pinned by {pin})", self.snapshot));
        let lines = [
            ("source", Some(self.source.clone())),
            ("snapshot", pinned),
            ("version", Some(self.version.clone())),
            ("total", Some(format!("{} bytes in {} files", self.bytes, self.files.len()))),
        ];
        let lines = lines.into_iter().filter_map(|(name, value)| Some((name, value?)));
        lines.map(|(name, value)| format!("{name:<8}  {value}")).collect()
    }

    fn summary(&self, directory: &Path, took: Duration) -> String {
        #[expect(clippy::cast_precision_loss, reason = "for people, to one decimal place")]
        let megabytes = self.bytes as f64 / 1e6;
        let (directory, count) = (directory.display(), self.files.len());
        let (version, seconds) = (short(&self.version), took.as_secs_f64());
        format!("{directory}: version {version}, {count} files, {megabytes:.1} MB, {seconds:.2} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_or_missing_directory_is_filled() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("a/b");
        assert!(prepare(&missing).unwrap());
        assert!(!prepare(&missing).unwrap());
        fs::write(missing.join("file"), "").unwrap();
        let failure = prepare(&missing).unwrap_err();
        assert!(failure.message.contains("not empty"), "{}", failure.message);
        let failure = prepare(&missing.join("file")).unwrap_err();
        assert!(failure.message.contains("a/b/file: "), "{}", failure.message);
    }

    #[test]
    fn content_is_shown_as_text_and_as_json() {
        let file = |path: &str, bytes| ContentFile { path: path.into(), bytes, sha256: "d".into() };
        let content = |pin| Content {
            source: "https://host/m/".into(),
            snapshot: "sha256:5".into(),
            pin,
            version: "0123456789abcdef".into(),
            bytes: 1_500_000,
            files: vec![file("config.json", 500_000), file("model.onnx", 1_000_000)],
            directory: None,
        };
        let remote = content(Some(Pin::Checksums));
        assert_eq!(
            remote.head(),
            [
                "source    https://host/m/",
                "snapshot  sha256:5 (pinned by SHA256SUMS)",
                "version   0123456789abcdef",
                "total     1500000 bytes in 2 files",
            ]
        );
        assert_eq!(content(None).head().len(), 3);
        let json: serde_json::Value = serde_json::from_str(&remote.json()).unwrap();
        assert_eq!(json["pin"], "checksums");
        assert_eq!(json["files"][1]["path"], "model.onnx");
        assert!(json.get("directory").is_none(), "{json}");
        assert_eq!(
            remote.summary(Path::new("m"), Duration::from_millis(1500)),
            "m: version 0123456789ab, 2 files, 1.5 MB, 1.50 s"
        );
    }
}
