//! A directory as a source, with the files of the Hugging Face hub. It is opened once, and files
//! are opened below it without following links, so that a version is never a mixture.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use onnxd_proto::domain::{Refusal, RefusalKind};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use sha2::{Digest, Sha256};

use crate::models::{
    disk::{hex, io_refusal},
    sources::{
        Fetched, FetchedFile, Progress, Resolved, Snapshot, SnapshotFile, SnapshotId, Source,
        checksums::{self, Checksums},
        digests::{Digests, Identity},
    },
};

/// Files that a version takes from a directory where they are there. The model itself and its
/// external data are found by [`Opened::model_files`].
const SMALL_FILES: &[&str] = &[
    "1_Pooling/config.json",
    "canary.jsonl",
    "config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "onnxd.toml",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Bytes of one version. A source that holds more is no model for this server.
const VERSION_BYTES_MAX: u64 = 16 << 30;

/// A directory that holds a model.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    digests: Arc<Digests>,
}

impl Directory {
    /// The directory at `path`; nothing is opened yet.
    pub fn new(path: PathBuf, digests: Arc<Digests>) -> Self {
        Self { path, digests }
    }
}

impl Source for Directory {
    fn resolve(&self, known: Option<&SnapshotId>) -> Result<Resolved, Refusal> {
        let opened = Opened::open(&self.path)?;
        // It may list files beside those of the snapshot, so it is compared each time.
        let has_checksums = opened.open_file(checksums::FILE)?.is_some();
        let snapshot = opened.snapshot(&self.digests)?;
        Ok(match known {
            Some(known) if *known == snapshot.id && !has_checksums => Resolved::Unchanged,
            _ => Resolved::Changed(Box::new(snapshot)),
        })
    }
}

/// A directory's files at one moment, opened.
#[derive(Debug)]
struct DirectorySnapshot {
    opened: Opened,
    id: SnapshotId,
    files: Vec<SnapshotFile>,
    /// Those files, with what they were when they were opened.
    handles: Vec<(File, Identity)>,
    digests: Arc<Digests>,
}

impl Snapshot for DirectorySnapshot {
    fn id(&self) -> &SnapshotId {
        &self.id
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    fn verify(&self, files: &[FetchedFile]) -> Result<(), Refusal> {
        self.opened.verify(files)
    }

    /// Blocking.
    fn fetch(&self, target: &Path, progress: Progress<'_>) -> Result<Fetched, Refusal> {
        let all = bytes_of(&self.files);
        let free = free_bytes(target).map_err(|error| io_refusal(target, &error))?;
        if all > free {
            return Err(RefusalKind::Space.because(format!(
                "{}: the version has {all} bytes, and {free} are free",
                target.display()
            )));
        }
        let (mut done, mut is_pinned) = (0, true);
        let mut files = Vec::new();
        for (SnapshotFile { path, .. }, (file, identity)) in self.files.iter().zip(&self.handles) {
            let mut count = |bytes| {
                done += bytes;
                progress(done, all);
                done <= VERSION_BYTES_MAX
            };
            let (bytes, sha256) = copy(file, &target.join(path), &mut count)
                .map_err(|error| self.opened.refusal(path, &error))?;
            is_pinned &= self.digests.remember(file, identity, &sha256);
            files.push(FetchedFile { path: path.clone(), bytes, sha256 });
        }
        Ok(Fetched { files, is_pinned })
    }
}

/// A directory, held open, so that a link that is moved to another directory meanwhile cannot mix two.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    handle: File,
}

impl Opened {
    /// Opens the directory; a link to it is followed once, here.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] with the path.
    fn open(path: &Path) -> Result<Self, Refusal> {
        let missing = |error: &dyn std::fmt::Display| {
            RefusalKind::NotFound.because(format!("{}: {error}", path.display()))
        };
        let handle = File::open(path).map_err(|error| missing(&error))?;
        match handle.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(Self { path: path.to_owned(), handle }),
            Ok(_) => Err(missing(&"not a directory")),
            Err(error) => Err(missing(&error)),
        }
    }

    /// The files that make a version, opened.
    ///
    /// # Errors
    /// `Contract` where no model is there, a file is a link, or all are larger than a version may
    /// be; `Internal` where a file cannot be read. All name the file or the directory.
    fn snapshot(self, digests: &Arc<Digests>) -> Result<DirectorySnapshot, Refusal> {
        let mut paths = self.model_files()?;
        paths.extend(SMALL_FILES.iter().map(ToString::to_string));
        paths.sort();
        let (mut files, mut handles) = (Vec::new(), Vec::new());
        let mut id = Identifier::default();
        for path in paths {
            if let Some((file, identity)) = self.identified(&path)? {
                id.add(&path, &identity);
                let (bytes, sha256) = (identity.bytes(), digests.get(&identity));
                files.push(SnapshotFile { path, bytes, sha256 });
                handles.push((file, identity));
            }
        }
        // An author who corrects it has made another snapshot.
        if let Some((_, identity)) = self.identified(checksums::FILE)? {
            id.add(checksums::FILE, &identity);
        }
        let (all, most) = (bytes_of(&files), VERSION_BYTES_MAX);
        if all > most {
            return Err(RefusalKind::Contract.because(format!(
                "{}: its files have {all} bytes, and a version has at most {most}",
                self.path.display()
            )));
        }
        let digests = Arc::clone(digests);
        Ok(DirectorySnapshot { opened: self, id: id.finish(), files, handles, digests })
    }

    /// A file below the directory with what it is now, if it is there.
    fn identified(&self, path: &str) -> Result<Option<(File, Identity)>, Refusal> {
        let Some(file) = self.open_file(path)? else { return Ok(None) };
        let identity = Identity::of(&file).map_err(|error| self.refusal(path, &error))?;
        Ok(Some((file, identity)))
    }

    /// Compares files with the `SHA256SUMS` of the source, if it has one.
    ///
    /// # Errors
    /// `Checksum` where one differs or is missing, or where a line cannot be read.
    fn verify(&self, files: &[FetchedFile]) -> Result<(), Refusal> {
        let Some(file) = self.open_file(checksums::FILE)? else { return Ok(()) };
        let path = self.path.join(checksums::FILE);
        let mut text = String::new();
        file.take(checksums::BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(|error| io_refusal(&path, &error))?;
        let refuse = |what: String| {
            Err(RefusalKind::Checksum.because(format!("{}: {what}", self.path.display())))
        };
        if text.len() as u64 > checksums::BYTES_MAX {
            return refuse(format!("{} is too long", checksums::FILE));
        }
        let checksums = match Checksums::parse(&text) {
            Ok(checksums) => checksums,
            Err(line) => return refuse(format!("{}: line {line} is no digest", checksums::FILE)),
        };
        let is_missing = |path: &str| {
            let name = path.strip_prefix("onnx/").unwrap_or(path);
            let ours = SMALL_FILES.contains(&path) || !name.contains('/') && is_model_file(name);
            ours && matches!(self.open_file(path), Ok(None))
        };
        checksums.fault(files, is_missing).map_or(Ok(()), refuse)
    }

    /// The ONNX file, `model.onnx` or `onnx/model.onnx`, and the files beside it that can be its
    /// external data: those that begin with `model.onnx` or end in `.data` or `_data`.
    fn model_files(&self) -> Result<Vec<String>, Refusal> {
        for folder in ["", "onnx/"] {
            if self.open_file(&format!("{folder}model.onnx"))?.is_none() {
                continue;
            }
            let entries = fs::read_dir(self.path.join(folder))
                .and_then(Iterator::collect::<io::Result<Vec<_>>>)
                .map_err(|error| self.refusal(folder, &error))?;
            let names =
                entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
            let ours = names.filter(|name| is_model_file(name));
            return Ok(ours.map(|name| format!("{folder}{name}")).collect());
        }
        Err(RefusalKind::Contract.because(format!(
            "{}: neither model.onnx nor onnx/model.onnx is there",
            self.path.display()
        )))
    }

    /// Opens a file below the directory without following a link anywhere on the way, so that
    /// nothing outside of it can become part of a version.
    fn open_file(&self, path: &str) -> Result<Option<File>, Refusal> {
        let opened = rustix::fs::openat2(
            &self.handle,
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        );
        let file = match opened {
            Ok(descriptor) => File::from(descriptor),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => {
                return Err(RefusalKind::Contract.because(format!(
                    "{}: symbolic links are not followed; copy the directory with `cp -rL` first",
                    self.path.join(path).display()
                )));
            }
            Err(error) => return Err(self.refusal(path, &error.into())),
        };
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(Some(file)),
            Ok(_) => Err(RefusalKind::Contract
                .because(format!("{}: not a regular file", self.path.join(path).display()))),
            Err(error) => Err(self.refusal(path, &error)),
        }
    }

    fn refusal(&self, path: &str, error: &io::Error) -> Refusal {
        io_refusal(&self.path.join(path), error)
    }
}

/// Whether a file beside the model, or the model itself, has its weights.
fn is_model_file(name: &str) -> bool {
    name.starts_with("model.onnx") || name.ends_with(".data") || name.ends_with("_data")
}

/// Saturates: a sparse file may claim anything.
fn bytes_of(files: &[SnapshotFile]) -> u64 {
    files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
}

/// Makes the name of a snapshot from what its files are.
#[derive(Default)]
struct Identifier {
    digest: Sha256,
    is_unsettled: bool,
}

impl Identifier {
    fn add(&mut self, path: &str, identity: &Identity) {
        self.digest.update(format!("{path} {identity}\n"));
        self.is_unsettled |= !identity.is_settled();
    }

    fn finish(mut self) -> SnapshotId {
        static UNSETTLED: AtomicU64 = AtomicU64::new(0);
        if self.is_unsettled {
            // A further change could leave the same times: such a name equals no other.
            let number = UNSETTLED.fetch_add(1, Ordering::Relaxed);
            self.digest.update(format!("unsettled {number}\n"));
        }
        SnapshotId::new(hex(&self.digest.finalize()))
    }
}

/// What this process may still write to the file system of `path`, statvfs(3).
fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Copies one file; gives its length and SHA-256. `count` hears of each part and says whether
/// there is room for it.
fn copy(
    mut from: &File,
    to: &Path,
    count: &mut dyn FnMut(u64) -> bool,
) -> io::Result<(u64, String)> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    from.rewind()?;
    let mut to = File::create_new(to)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok((bytes, hex(&digest.finalize())));
        }
        bytes += length as u64;
        if !count(length as u64) {
            return Err(io::Error::other("the model is larger than a version may be"));
        }
        digest.update(&buffer[..length]);
        to.write_all(&buffer[..length])?;
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
