//! A source's directory, held open. Opens files below it so that no file outside can become part of a
//! version, even while links change. Follows links that stay inside. A snapshot in the Hugging Face
//! hub's cache may also link to the blobs of that cache.

use std::{
    fmt, fs,
    fs::File,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use onnxd_proto::domain::{Refusal, RefusalKind};
use rustix::{
    fd::OwnedFd,
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::models::{disk::io_refusal, sources::selection};

/// The folder of snapshots, relative to the model's folder in the hub's cache.
const SNAPSHOTS: &str = "snapshots";
/// The file that names the snapshot of the branch `main`.
const MAIN: &str = "refs/main";
/// Maximum bytes of that file, which holds a commit.
const COMMIT_BYTES_MAX: u64 = 100;
/// Maximum snapshots examined if no branch names one.
const SNAPSHOTS_MAX: usize = 100;
/// The folder with the files of all snapshots.
const BLOBS: &str = "blobs";
/// Maximum entries of all folders together.
const ENTRIES_MAX: usize = 10_000;
/// Maximum retries when folders are renamed during a lookup.
const RETRIES_MAX: usize = 100;

/// A directory, held open so that a link to it cannot switch directories in between.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    handle: File,
    /// The blobs folder, if this is a snapshot in the hub's cache.
    blobs: Option<OwnedFd>,
}

impl Tree {
    /// Opens the directory. A link to it is followed once, here. For a model's folder in the hub's
    /// cache, opens the snapshot that its branch `main` names.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] with the path.
    pub(super) fn open(path: &Path) -> Result<Self, Refusal> {
        let missing = |error: &dyn fmt::Display| {
            RefusalKind::NotFound.because(format!("{}: {error}", path.display()))
        };
        let handle = File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                missing(&"no such directory; a model of a Hugging Face hub is hf://ORG/NAME")
            }
            _ => missing(&error),
        })?;
        match handle.metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(missing(&"not a directory")),
            Err(error) => return Err(missing(&error)),
        }
        let tree = Self { path: path.to_owned(), handle, blobs: None };
        let mut tree = match tree.main()? {
            Some(commit) => tree.snapshot(&commit)?,
            None => tree,
        };
        tree.blobs = tree.find_blobs();
        Ok(tree)
    }

    /// Returns the directory's path, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Duplicates the directory's descriptor, for a process that reads it.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub(super) fn handle(&self) -> io::Result<File> {
        self.handle.try_clone()
    }

    /// Returns whether this is a snapshot in the hub's cache.
    pub(super) fn is_cached(&self) -> bool {
        self.blobs.is_some()
    }

    /// Returns the commit of the branch `main`, if this is a model's folder in the hub's cache.
    fn main(&self) -> Result<Option<String>, Refusal> {
        let is_folder = |name| self.open_beneath(name, OFlags::DIRECTORY).is_ok();
        if !is_folder(SNAPSHOTS) || !is_folder(BLOBS) {
            return Ok(None);
        }
        let Some(file) = self.open_file(MAIN)? else { return self.only_snapshot().map(Some) };
        let mut commit = String::new();
        file.take(COMMIT_BYTES_MAX)
            .read_to_string(&mut commit)
            .map_err(|error| self.refusal(MAIN, &error))?;
        let commit = commit.trim();
        match is_commit(commit) {
            true => Ok(Some(commit.to_owned())),
            false => Err(self.refuse(format!("{MAIN} does not name a commit"))),
        }
    }

    /// Returns the only snapshot. The download of a single commit leaves no branch.
    fn only_snapshot(&self) -> Result<String, Refusal> {
        let read = || {
            let folder = self.open_beneath(SNAPSHOTS, OFlags::DIRECTORY)?;
            let entries = rustix::fs::Dir::new(folder)?.take(SNAPSHOTS_MAX);
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        let names: Result<Vec<String>, Errno> = read();
        let names = names.map_err(|error| self.refusal(SNAPSHOTS, &error.into()))?;
        let commits: Vec<String> = names.into_iter().filter(|name| is_commit(name)).collect();
        match &*commits {
            [commit] => Ok(commit.clone()),
            _ => Err(self.refuse(format!(
                "{MAIN} is missing and the cache holds {} snapshots; serve one folder of {SNAPSHOTS}",
                commits.len()
            ))),
        }
    }

    /// Opens a snapshot below this model's folder in the hub's cache.
    fn snapshot(self, commit: &str) -> Result<Self, Refusal> {
        let path = format!("{SNAPSHOTS}/{commit}");
        match self.open_beneath(&path, OFlags::DIRECTORY) {
            Ok(handle) => {
                Ok(Self { path: self.path.join(path), handle: handle.into(), blobs: None })
            }
            Err(_) => Err(self.refuse(format!(
                "{MAIN} names {path}, which is missing; download the model again"
            ))),
        }
    }

    /// Opens the blobs folder, if this directory is a snapshot in the hub's cache.
    fn find_blobs(&self) -> Option<OwnedFd> {
        let open = |path: &str| {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&self.handle, path, flags, Mode::empty()).ok()
        };
        let identity = |folder: OwnedFd| {
            let found = rustix::fs::fstat(folder).ok()?;
            Some((found.st_dev, found.st_ino))
        };
        let is_snapshot = identity(open("..")?)? == identity(open("../../snapshots")?)?;
        if is_snapshot { open("../../blobs") } else { None }
    }

    /// Opens a regular file below the directory, if it exists.
    ///
    /// # Errors
    /// Not a regular file, or a link on the path leads outside or dangles.
    pub(super) fn open_file(&self, path: &str) -> Result<Option<File>, Refusal> {
        let opened = match self.open_beneath(path, OFlags::NONBLOCK) {
            Err(Errno::XDEV) => self.open_outside(path)?,
            // The link itself exists; its target does not.
            Err(Errno::NOENT) if self.link_to(path).is_some() => {
                return Err(self.refuse_link(path, "which is missing; download it again"));
            }
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::LOOP) => return Err(self.refuse_link(path, "which leads back to itself")),
            opened => opened.map_err(|error| self.refusal(path, &error.into()))?,
        };
        let file = File::from(opened);
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(Some(file)),
            Ok(_) => Err(self.refuse(format!("{path} is not a regular file"))),
            Err(error) => Err(self.refusal(path, &error)),
        }
    }

    /// Reads a file of at most `bytes_max` bytes, if it exists.
    ///
    /// # Errors
    /// It is longer, cannot be read, or leads outside.
    pub(super) fn read_small(
        &self,
        path: &str,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(file) = self.open_file(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = file.take(bytes_max + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.refusal(path, &error))?;
        match bytes.len() as u64 > bytes_max {
            true => Err(self.refuse(format!("{path} is longer than {bytes_max} bytes"))),
            false => Ok(Some(bytes)),
        }
    }

    /// Opens a path below the directory. Follows links that stay below it.
    fn open_beneath(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.handle, path, flags, resolve)
    }

    /// Opens a link to a blob of the hub's cache, or an absolute link to a path inside the directory.
    /// Resolves the target again from the open descriptors, so a moved link cannot lead outside.
    fn open_outside(&self, path: &str) -> Result<OwnedFd, Refusal> {
        let outside = || self.refuse_link(path, "which is outside the source");
        let target = self.link_to(path).ok_or_else(outside)?;
        if let Ok(inside) = target.strip_prefix(&self.path) {
            let inside = inside.to_str().ok_or_else(outside)?;
            return self.open_beneath(inside, OFlags::NONBLOCK).map_err(|_| outside());
        }
        let blobs = self.blobs.as_ref().ok_or_else(outside)?;
        let blob = self.blob(path, &target).ok_or_else(outside)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(blobs, &blob, OFlags::NONBLOCK, resolve).map_err(|error| match error {
            Errno::NOENT => self.refuse_link(path, "which is missing; download it again"),
            error => self.refusal(path, &error.into()),
        })
    }

    /// Returns the name of the blob that the link at `path` leads to, if its target is a blob.
    fn blob(&self, path: &str, target: &Path) -> Option<String> {
        let (folder, name) = (target.parent()?, target.file_name()?.to_str()?);
        let is_blobs = if folder.is_absolute() {
            let cache = self.path.parent()?.parent()?;
            folder == cache.join(BLOBS)
        } else {
            let ups = path.matches('/').count() + 2;
            let mut parts = folder.components();
            parts.by_ref().take(ups).all(|part| part == Component::ParentDir)
                && parts.eq([Component::Normal(BLOBS.as_ref())])
        };
        is_blobs.then(|| name.to_owned())
    }

    /// Returns the target of the link at `path`, if `path` is a link and its folders are inside.
    fn link_to(&self, path: &str) -> Option<PathBuf> {
        let link = self.open_beneath(path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
        let target = rustix::fs::readlinkat(link, "", Vec::new()).ok()?;
        Some(PathBuf::from(target.into_string().ok()?))
    }

    /// Returns a refusal that names the first link on the path.
    fn refuse_link(&self, path: &str, reason: &str) -> Refusal {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let link = ends.map(|end| &path[..end]).find_map(|part| Some((part, self.link_to(part)?)));
        self.refuse(match link {
            Some((part, target)) => {
                format!("{part} is a link to {}, {reason}", target.display())
            }
            None => format!("{path} leads through a link, {reason}"),
        })
    }

    /// Returns the files below the directory whose names select them for a version, top level first;
    /// see [`selection`].
    ///
    /// # Errors
    /// A folder cannot be read, is a link to the outside, or holds too many entries.
    pub(super) fn selected_files(&self, has_graph: bool) -> Result<Vec<String>, Refusal> {
        let (mut files, mut entries) = (Vec::new(), 0);
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let at = if folder.is_empty() { "." } else { &folder };
            let handle = self.open_beneath(at, OFlags::DIRECTORY);
            let handle = handle.map_err(|error| self.refusal(at, &error.into()))?;
            let read = rustix::fs::Dir::new(handle);
            for entry in read.map_err(|error| self.refusal(at, &error.into()))? {
                let entry = entry.map_err(|error| self.refusal(at, &error.into()))?;
                entries += 1;
                if entries > ENTRIES_MAX {
                    return Err(self.refuse(format!(
                        "more than {ENTRIES_MAX} files; serve a directory that holds one model"
                    )));
                }
                let Ok(name) = entry.file_name().to_str() else { continue };
                let path = if folder.is_empty() { name.into() } else { format!("{folder}/{name}") };
                let is_included = selection::includes(&path, has_graph);
                if selection::descends_into(&path)
                    && self.is_folder(&path, entry.file_type(), is_included)?
                {
                    folders.push(path);
                } else if is_included {
                    files.push(path);
                }
            }
        }
        Ok(files)
    }

    /// Returns whether an entry is a folder or a link to one inside. Refuses a link to a folder outside
    /// instead of skipping it, because that folder may hold files the model needs.
    fn is_folder(&self, path: &str, kind: FileType, is_taken: bool) -> Result<bool, Refusal> {
        match kind {
            FileType::Directory => Ok(true),
            FileType::Symlink | FileType::Unknown => {
                match self.open_beneath(path, OFlags::DIRECTORY) {
                    Ok(_) => Ok(true),
                    Err(Errno::XDEV) if !is_taken => {
                        // Only the target's file type is read.
                        let found = fs::metadata(self.path.join(path));
                        match found.is_ok_and(|found| found.is_dir()) {
                            true => Err(self.refuse_link(path, "which is outside the source")),
                            false => Ok(false),
                        }
                    }
                    Err(_) => Ok(false),
                }
            }
            _ => Ok(false),
        }
    }

    /// Returns a `Contract` refusal that names the source's path.
    pub(super) fn refuse(&self, what: impl fmt::Display) -> Refusal {
        RefusalKind::Contract.because(format!("{}: {what}", self.path.display()))
    }

    /// Returns the refusal for a file that cannot be read.
    pub(super) fn refusal(&self, path: &str, error: &io::Error) -> Refusal {
        io_refusal(&self.path.join(path), error)
    }
}

/// Returns whether a name can be a commit, and so a snapshot's folder.
fn is_commit(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Opens a path below `at`. Retries when a concurrent rename makes the kernel return `EAGAIN`.
fn openat2(
    at: impl rustix::fd::AsFd,
    path: &str,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC;
    let open = || rustix::fs::openat2(&at, path, flags, Mode::empty(), resolve);
    let again = |opened: &Result<_, _>| matches!(opened, Err(Errno::AGAIN | Errno::INTR));
    let mut opened = open();
    for _ in 0..RETRIES_MAX {
        if !again(&opened) {
            break;
        }
        opened = open();
    }
    opened
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
