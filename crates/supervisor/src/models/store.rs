//! The state directory: the only code that writes to it. A version is complete and durable
//! before its name exists, a generation's record before the generation is committed; whatever
//! step a crash interrupts, the next [`Store::open`] finds the old or the new state and removes
//! the rest. What stands where is [`onnxd_proto::layout`]'s affair.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Seek, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use onnxd_proto::{
    generation::Generation,
    layout::{Layout, MANIFEST, Record},
    message::Refusal,
    model_name::ModelName,
};
use sha2::{Digest, Sha256};

use super::source::{Directory, StagedFile, hex, io_refusal};
use crate::Failure;

/// The state directory, locked.
#[derive(Debug)]
pub(crate) struct Store {
    layout: Layout,
    /// Released by the kernel however this process ends.
    _lock: Flock<File>,
}

/// A version that stands in `staging/` or, where it was known already, in `versions/`. Dropping
/// it before [`Store::keep`] removes the staged copy.
#[derive(Debug)]
pub(crate) struct Staged {
    /// SHA-256 of the manifest, in hex.
    pub version: String,
    /// `None` where the version is known already.
    folder: Option<tempfile::TempDir>,
    /// All bytes of its files.
    pub bytes: u64,
}

impl Staged {
    /// Where the files stand until the version is kept.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(tempfile::TempDir::path)
    }
}

impl Store {
    /// Creates what is missing, becomes the one writer, and removes what a crash left over.
    ///
    /// # Errors
    /// Another supervisor holds the lock (the message names its pid), or the directory cannot be
    /// used.
    pub(crate) fn open(root: &Path) -> Result<Self, Failure> {
        let layout = Layout::new(root);
        let wrong = |path: &Path, error: &dyn std::fmt::Display| {
            Failure::configuration(format!("--state-dir: {}: {error}", path.display()))
        };
        for folder in
            [layout.root().to_owned(), layout.versions(), layout.root().join("generations")]
        {
            fs::create_dir_all(&folder).map_err(|error| wrong(&folder, &error))?;
        }
        let lock = lock(&layout.lock())?;
        let staging = layout.staging();
        match fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(wrong(&staging, &error));
            }
            _ => fs::create_dir(&staging).map_err(|error| wrong(&staging, &error))?,
        }
        Ok(Self { layout, _lock: lock })
    }

    /// Where everything stands.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Copies a source into `staging/` and names it by its manifest. Blocking.
    ///
    /// # Errors
    /// See [`Directory::copy_to`]; nothing is left behind.
    pub(crate) fn stage(&self, source: &Directory) -> Result<Staged, Refusal> {
        let staging = self.layout.staging();
        let folder =
            tempfile::tempdir_in(&staging).map_err(|error| io_refusal(&staging, &error))?;
        let files = source.copy_to(folder.path())?;
        let manifest = manifest(&files);
        let version = hex(&Sha256::digest(&manifest));
        let bytes = files.iter().map(|file| file.bytes).sum();
        if self.layout.version(&version).exists() {
            return Ok(Staged { version, folder: None, bytes });
        }
        let path = folder.path().join(MANIFEST);
        fs::write(&path, manifest).map_err(|error| io_refusal(&path, &error))?;
        Ok(Staged { version, folder: Some(folder), bytes })
    }

    /// Makes a staged version durable and gives it its place; from then on it never changes.
    /// Blocking.
    ///
    /// # Errors
    /// A fault of the disk; nothing is left behind.
    pub(crate) fn keep(&self, staged: Staged) -> Result<(), Refusal> {
        let Some(folder) = staged.folder else { return Ok(()) };
        let place = self.layout.version(&staged.version);
        let kept = (|| {
            seal(folder.path())?;
            fs::rename(folder.path(), &place)?;
            sync_directory(&self.layout.versions())
        })();
        match kept {
            Ok(()) => {
                // The folder has moved: there is nothing to remove any more.
                let _ = folder.keep();
                Ok(())
            }
            Err(error) => Err(io_refusal(&place, &error)),
        }
    }

    /// Writes a generation's record, durably. A number that exists is never written again.
    ///
    /// # Errors
    /// A fault of the disk, after which the generation does not exist.
    pub(crate) fn record(
        &self,
        model: &ModelName,
        generation: Generation,
        record: &Record,
    ) -> Result<(), Refusal> {
        let folder = self.layout.generations(model);
        let path = self.layout.generation(model, generation);
        let written = (|| {
            fs::create_dir_all(&folder)?;
            let mut file = tempfile::Builder::new().tempfile_in(self.layout.staging())?;
            serde_json::to_writer(&mut file, record)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.as_file().set_permissions(Permissions::from_mode(0o444))?;
            file.persist_noclobber(&path)?;
            sync_directory(&folder)?;
            sync_directory(&self.layout.root().join("generations"))
        })();
        written.map_err(|error: io::Error| io_refusal(&path, &error))
    }

    /// The numbers of a model's recorded generations, rising.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(crate) fn generations(&self, model: &ModelName) -> io::Result<Vec<Generation>> {
        let entries = match fs::read_dir(self.layout.generations(model)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The newest generation whose version is there: the one to serve after a restart.
    ///
    /// # Errors
    /// A record is damaged or the directory cannot be read; the message names the file.
    pub(crate) fn newest(&self, model: &ModelName) -> io::Result<Option<(Generation, Record)>> {
        for generation in self.generations(model)?.into_iter().rev() {
            let record = self.layout.read_record(model, generation)?;
            if self.layout.version(&record.version).join(MANIFEST).exists() {
                return Ok(Some((generation, record)));
            }
            tracing::error!(%model, generation, version = record.version, "the version of a generation is missing");
        }
        Ok(None)
    }
}

/// Lines of `<sha256>  <bytes>  <path>`, sorted by path, after a line that names the format.
fn manifest(files: &[StagedFile]) -> String {
    let lines =
        files.iter().map(|file| format!("{}  {}  {}\n", file.sha256, file.bytes, file.path));
    std::iter::once("onnxd manifest 1\n".to_owned()).chain(lines).collect()
}

/// Makes every file durable and read-only, then every directory.
fn seal(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            seal(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
            fs::set_permissions(&path, Permissions::from_mode(0o444))?;
        }
    }
    // The top directory stays writable to its owner, who must be able to remove it one day.
    sync_directory(folder)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn lock(path: &PathBuf) -> Result<Flock<File>, Failure> {
    let wrong = |reason: &dyn std::fmt::Display| {
        Failure::configuration(format!("--state-dir: {}: {reason}", path.display()))
    };
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| wrong(&error))?;
    let mut holder = String::new();
    // Only for the message below.
    let _ = file.read_to_string(&mut holder);
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        if error == nix::errno::Errno::EWOULDBLOCK {
            wrong(&format!("another supervisor works here, process {}", holder.trim()))
        } else {
            wrong(&error)
        }
    })?;
    let noted = (|| {
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())
    })();
    noted.map_err(|error: io::Error| wrong(&error))?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use onnxd_proto::message::{Facts, Pooling, Task};

    use super::*;

    fn source_with(content: &str) -> tempfile::TempDir {
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("model.onnx"), content).unwrap();
        source
    }

    fn record_of(version: &str) -> Record {
        let facts = Facts {
            task: Task::Embed,
            dimension: 4,
            max_tokens: 8,
            pooling: Pooling::Mean,
            normalize: true,
        };
        Record { version: version.into(), configured_source: "/x".into(), facts }
    }

    fn stage(store: &Store, content: &str) -> Staged {
        store.stage(&Directory::open(source_with(content).path()).unwrap()).unwrap()
    }

    fn is_empty(folder: &Path) -> bool {
        fs::read_dir(folder).unwrap().next().is_none()
    }

    #[test]
    fn equal_content_is_one_version_and_another_content_is_another() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let first = stage(&store, "a");
        let version = first.version.clone();
        assert!(first.folder().is_some());
        store.keep(first).unwrap();
        let again = stage(&store, "a");
        assert_eq!((again.version.as_str(), again.folder()), (version.as_str(), None));
        assert_ne!(stage(&store, "b").version, version);
        let model = store.layout().version(&version).join("model.onnx");
        assert_eq!(fs::metadata(model).unwrap().permissions().mode() & 0o777, 0o444);
        assert!(is_empty(&store.layout().staging()), "what is not kept is removed");
    }

    #[test]
    fn after_a_restart_the_newest_generation_with_a_version_serves_and_leftovers_are_gone() {
        let root = tempfile::tempdir().unwrap();
        let model = "m".parse().unwrap();
        let store = Store::open(root.path()).unwrap();
        assert_eq!(store.newest(&model).unwrap(), None);
        let staged = stage(&store, "a");
        let record = record_of(&staged.version);
        store.keep(staged).unwrap();
        store.record(&model, 9, &record).unwrap();
        store.record(&model, 10, &record).unwrap();
        store.record(&model, 11, &record_of("a version that was never kept")).unwrap();
        assert!(store.record(&model, 10, &record).is_err(), "a number is never reused");
        std::mem::forget(tempfile::tempdir_in(store.layout().staging()).unwrap());
        drop(store);
        let store = Store::open(root.path()).unwrap();
        assert!(is_empty(&store.layout().staging()));
        assert_eq!(store.newest(&model).unwrap(), Some((10, record)));
        assert_eq!(store.generations(&model).unwrap(), [9, 10, 11]);
    }

    #[test]
    fn a_second_writer_is_refused_and_told_who_the_first_is() {
        let root = tempfile::tempdir().unwrap();
        let _first = Store::open(root.path()).unwrap();
        let second = format!("{:?}", Store::open(root.path()).unwrap_err());
        assert!(second.contains(&std::process::id().to_string()), "{second}");
    }
}
