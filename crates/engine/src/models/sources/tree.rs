//! A source's directory, held open: opens files below it so that nothing outside of it can become
//! part of a version, however links move meanwhile. Links are followed where they stay inside; a
//! snapshot of the Hugging Face hub's cache may link to the blobs beside it.

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

/// Where a snapshot of the hub's cache stands, seen from the model's folder in it.
const SNAPSHOTS: &str = "snapshots";
/// The file that names the snapshot of the branch `main`.
const MAIN: &str = "refs/main";
/// Bytes of that file: a commit.
const COMMIT_BYTES_MAX: u64 = 100;
/// Snapshots that are looked at when no branch says which to serve.
const SNAPSHOTS_MAX: usize = 100;
/// Where the files of snapshots are.
const BLOBS: &str = "blobs";
/// Entries of all folders that are looked into.
const ENTRIES_MAX: usize = 10_000;
/// How often the kernel is asked again when folders are renamed meanwhile.
const TRIES_MAX: usize = 100;

/// A directory, held open, so that a link to it that is moved meanwhile cannot mix two.
#[derive(Debug)]
pub(super) struct Tree {
    path: PathBuf,
    handle: File,
    /// The blobs of the hub's cache that this is a snapshot of.
    blobs: Option<OwnedFd>,
}

impl Tree {
    /// Opens the directory; a link to it is followed once, here. A model's folder in the hub's cache
    /// stands for the snapshot that its branch `main` names.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] with the path.
    pub(super) fn open(path: &Path) -> Result<Self, Refusal> {
        let missing = |error: &dyn fmt::Display| {
            RefusalKind::NotFound.because(format!("{}: {error}", path.display()))
        };
        let handle = File::open(path).map_err(|error| missing(&error))?;
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

    /// The directory, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, for a process that looks into it.
    ///
    /// # Errors
    /// Descriptors are used up.
    pub(super) fn handle(&self) -> io::Result<File> {
        self.handle.try_clone()
    }

    /// Whether this is a snapshot in the hub's cache.
    pub(super) fn is_cached(&self) -> bool {
        self.blobs.is_some()
    }

    /// The commit of the branch `main`, if this is a model's folder in the hub's cache.
    fn main(&self) -> Result<Option<String>, Refusal> {
        let is_folder = |name| self.beneath(name, OFlags::DIRECTORY).is_ok();
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

    /// The only snapshot: a download of one commit leaves no branch.
    fn only_snapshot(&self) -> Result<String, Refusal> {
        let read = || {
            let folder = self.beneath(SNAPSHOTS, OFlags::DIRECTORY)?;
            let entries = rustix::fs::Dir::new(folder)?.take(SNAPSHOTS_MAX);
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        let names: Result<Vec<String>, Errno> = read();
        let names = names.map_err(|error| self.refusal(SNAPSHOTS, &error.into()))?;
        let commits: Vec<String> = names.into_iter().filter(|name| is_commit(name)).collect();
        match &*commits {
            [commit] => Ok(commit.clone()),
            _ => Err(self.refuse(format!(
                "{MAIN} is missing, and there are {} snapshots; serve a folder of {SNAPSHOTS}",
                commits.len()
            ))),
        }
    }

    /// A snapshot in the hub's cache, of which this is the model's folder.
    fn snapshot(self, commit: &str) -> Result<Self, Refusal> {
        let path = format!("{SNAPSHOTS}/{commit}");
        match self.beneath(&path, OFlags::DIRECTORY) {
            Ok(handle) => {
                Ok(Self { path: self.path.join(path), handle: handle.into(), blobs: None })
            }
            Err(_) => Err(self.refuse(format!(
                "{MAIN} names {path}, which is missing; download the model again"
            ))),
        }
    }

    /// The blobs beside the snapshots, if this is one of them.
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

    /// Opens a regular file below the directory, if it is there.
    ///
    /// # Errors
    /// It is no regular file, or a link on the way leads outside or to nothing.
    pub(super) fn open_file(&self, path: &str) -> Result<Option<File>, Refusal> {
        let opened = match self.beneath(path, OFlags::NONBLOCK) {
            Err(Errno::XDEV) => self.open_outside(path)?,
            // The link itself is there.
            Err(Errno::NOENT) if self.link_to(path).is_some() => {
                return Err(self.refuse_link(path, "which is missing; download it again"));
            }
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::LOOP) => return Err(self.refuse_link(path, "and these go in circles")),
            opened => opened.map_err(|error| self.refusal(path, &error.into()))?,
        };
        let file = File::from(opened);
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(Some(file)),
            Ok(_) => Err(self.refuse(format!("{path} is not a regular file"))),
            Err(error) => Err(self.refusal(path, &error)),
        }
    }

    /// Opens what is below the directory; links are followed as long as they stay below it.
    fn beneath(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.handle, path, flags, resolve)
    }

    /// Opens a file that is a link to a blob of the hub's cache, or an absolute link to a place
    /// inside. What is opened is found anew from the handles, so that nobody can move it meanwhile.
    fn open_outside(&self, path: &str) -> Result<OwnedFd, Refusal> {
        let outside = || self.refuse_link(path, "which is outside of the source");
        let target = self.link_to(path).ok_or_else(outside)?;
        if let Ok(inside) = target.strip_prefix(&self.path) {
            let inside = inside.to_str().ok_or_else(outside)?;
            return self.beneath(inside, OFlags::NONBLOCK).map_err(|_| outside());
        }
        let blobs = self.blobs.as_ref().ok_or_else(outside)?;
        let blob = self.blob(path, &target).ok_or_else(outside)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(blobs, &blob, OFlags::NONBLOCK, resolve).map_err(|error| match error {
            Errno::NOENT => self.refuse_link(path, "which is missing; download it again"),
            error => self.refusal(path, &error.into()),
        })
    }

    /// The name of the blob that the link at `path` leads to, if that is one.
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

    /// Where the link at `path` leads, if it is one; the folders on the way are inside.
    fn link_to(&self, path: &str) -> Option<PathBuf> {
        let link = self.beneath(path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
        let target = rustix::fs::readlinkat(link, "", Vec::new()).ok()?;
        Some(PathBuf::from(target.into_string().ok()?))
    }

    /// The refusal that names the first link on the way to `path`.
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

    /// The files below the directory that a version takes by their names, see [`selection`], those
    /// at the top first.
    ///
    /// # Errors
    /// A folder cannot be read or is a link to outside, or there are too many entries.
    pub(super) fn named(&self, has_graph: bool) -> Result<Vec<String>, Refusal> {
        let (mut files, mut entries) = (Vec::new(), 0);
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let at = if folder.is_empty() { "." } else { &folder };
            let handle = self.beneath(at, OFlags::DIRECTORY);
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
                let takes = selection::takes(&path, has_graph);
                if selection::looks_into(&path)
                    && self.is_folder(&path, entry.file_type(), takes)?
                {
                    folders.push(path);
                } else if takes {
                    files.push(path);
                }
            }
        }
        Ok(files)
    }

    /// Whether an entry is a folder or a link to one inside. A link to a folder outside is refused
    /// rather than passed over: it may hold what the model needs.
    fn is_folder(&self, path: &str, kind: FileType, is_taken: bool) -> Result<bool, Refusal> {
        match kind {
            FileType::Directory => Ok(true),
            FileType::Symlink | FileType::Unknown => {
                match self.beneath(path, OFlags::DIRECTORY) {
                    Ok(_) => Ok(true),
                    Err(Errno::XDEV) if !is_taken => {
                        // Its kind alone is asked.
                        let found = fs::metadata(self.path.join(path));
                        match found.is_ok_and(|found| found.is_dir()) {
                            true => Err(self.refuse_link(path, "which is outside of the source")),
                            false => Ok(false),
                        }
                    }
                    Err(_) => Ok(false),
                }
            }
            _ => Ok(false),
        }
    }

    /// The refusal of the source, with its path.
    pub(super) fn refuse(&self, what: impl fmt::Display) -> Refusal {
        RefusalKind::Contract.because(format!("{}: {what}", self.path.display()))
    }

    /// The refusal for a file that cannot be read.
    pub(super) fn refusal(&self, path: &str, error: &io::Error) -> Refusal {
        io_refusal(&self.path.join(path), error)
    }
}

/// Whether a name can be a commit's, and so that of a snapshot's folder.
fn is_commit(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Opens a path below `at`. The kernel gives up when a folder is renamed at the wrong moment.
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
    for _ in 0..TRIES_MAX {
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
