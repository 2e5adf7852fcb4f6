//! Inspects, repairs and prunes a state directory without a server, for `onnxd state`. Only
//! [`Maintenance`] writes, and it holds the lock.
//!
//! - [`survey`]: what the directory holds, and what is damaged.
//! - [`repair`], [`prune`]: plan changes. Nothing changes before [`Maintenance::apply`].

pub mod prune;
pub mod repair;
pub mod survey;

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use onnxd_proto::{
    exit::Failure,
    generation::{GENERATION_MAX, Generation},
    layout::Layout,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;

use crate::models::store::{directories::sync_directory, lock, records::SetAside};

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Moves a damaged record to `damaged/`, and leaves a note that keeps its number in use.
    SetAsideRecord,
    /// Moves a damaged version to `damaged/`.
    SetAsideVersion,
    /// Removes a file or directory.
    Remove,
}

/// A planned change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it does.
    pub action: Action,
    /// The file or directory.
    pub path: PathBuf,
    /// Where it goes, if it is set aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<PathBuf>,
    /// Its size.
    pub bytes: u64,
    /// Why.
    pub reason: String,
}

impl Change {
    /// Returns the removal of a file or directory.
    fn remove(path: PathBuf, reason: impl Into<String>) -> Self {
        let bytes = bytes_of(&path);
        Self { action: Action::Remove, path, to: None, bytes, reason: reason.into() }
    }

    /// Returns a move to `damaged/`, under a name that is free.
    fn set_aside(action: Action, layout: &Layout, path: PathBuf, reason: &str) -> Self {
        let bytes = bytes_of(&path);
        let inside = path.strip_prefix(layout.root()).unwrap_or(&path);
        let wanted = layout.damaged().join(inside);
        let numbered = |number: u32| {
            let mut name = wanted.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let is_free = |path: &PathBuf| fs::symlink_metadata(path).is_err();
        let mut free = std::iter::once(wanted.clone()).chain((2..).map(numbered)).filter(is_free);
        Self { action, path, to: free.next(), bytes, reason: reason.to_owned() }
    }
}

/// A state directory that no server uses. The lock is held until this is dropped.
#[derive(Debug)]
pub struct Maintenance {
    layout: Layout,
    /// The user and group that own the directory. What root creates here must belong to them.
    owner: (u32, u32),
    _lock: File,
}

impl Maintenance {
    /// Takes the lock.
    ///
    /// # Errors
    /// A server holds it (the message names its PID), or the directory is unusable.
    pub fn open(root: &Path) -> Result<Self, Failure> {
        let layout = survey::layout(root)?;
        let invalid = |error: io::Error| {
            Failure::configuration(format!("--state-dir: {}: {error}", root.display()))
        };
        let metadata = fs::metadata(root).map_err(invalid)?;
        let owner = (metadata.uid(), metadata.gid());
        let lock = lock::take(&layout.lock(), None)?;
        adopt(&layout.lock(), owner).map_err(invalid)?;
        Ok(Self { layout, owner, _lock: lock })
    }

    /// Reads what the directory holds.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn survey(&self) -> Result<survey::Survey, Failure> {
        survey::Survey::of(&self.layout, None)
    }

    /// Makes a change. Each is durable before the next one.
    ///
    /// # Errors
    /// A disk error. The change is then made or not made, unless it removes a directory.
    pub fn apply(&self, change: &Change) -> io::Result<()> {
        match (change.action, &change.to) {
            (Action::Remove, _) => self.remove(&change.path),
            (Action::SetAsideVersion, Some(to)) => {
                self.create_parent(to)?;
                unlock(&change.path)?;
                fs::rename(&change.path, to)?;
                sync_parent(to).and_then(|()| sync_parent(&change.path))
            }
            (Action::SetAsideRecord, Some(to)) => self.set_aside_record(&change.path, to),
            (_, None) => Err(io::Error::other("internal error: nowhere to set it aside")),
        }
    }

    /// Exchanges a record with a note, so that its number is in use at any moment.
    fn set_aside_record(&self, record: &Path, to: &Path) -> io::Result<()> {
        self.create_parent(to)?;
        let number = record.file_name().and_then(|name| name.to_str()?.parse().ok());
        // No generation has such a number, so it need not stay in use.
        if number.is_none_or(|number: Generation| !(1..=GENERATION_MAX).contains(&number)) {
            unlock(record)?;
            fs::rename(record, to)?;
            return sync_parent(to).and_then(|()| sync_parent(record));
        }
        let place = to.strip_prefix(self.layout.root()).unwrap_or(to).display().to_string();
        let mut note = serde_json::to_vec(&SetAside { set_aside: place })?;
        note.push(b'\n');
        fs::write(to, note)?;
        fs::set_permissions(to, Permissions::from_mode(0o444))?;
        adopt(to, self.owner)?;
        File::open(to)?.sync_all()?;
        unlock(record)?;
        match renameat_with(CWD, to, CWD, record, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            // The file system cannot exchange files.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => replace_record(record, to)?,
            Err(error) => return Err(error.into()),
        }
        sync_parent(record).and_then(|()| sync_parent(to))
    }

    /// Removes a file or directory. Moves a directory to `staging/` first, which every start empties: it
    /// must not be found half removed.
    fn remove(&self, path: &Path) -> io::Result<()> {
        if !fs::symlink_metadata(path)?.is_dir() {
            return fs::remove_file(path);
        }
        unlock(path)?;
        if path.parent() == Some(&self.layout.staging()) {
            return fs::remove_dir_all(path);
        }
        fs::create_dir_all(self.layout.staging())?;
        adopt(&self.layout.staging(), self.owner)?;
        let doomed =
            tempfile::Builder::new().prefix("removed-").tempdir_in(self.layout.staging())?;
        fs::rename(path, doomed.path().join("content"))?;
        sync_parent(path)?;
        doomed.close()
    }

    /// Creates the directories above a path in `damaged/`.
    fn create_parent(&self, path: &Path) -> io::Result<()> {
        let folders: Vec<&Path> = path.ancestors().skip(1).collect();
        for folder in folders.into_iter().rev().filter(|folder| *folder != self.layout.root()) {
            if folder.starts_with(self.layout.root()) && !folder.exists() {
                fs::create_dir(folder)?;
                adopt(folder, self.owner)?;
            }
        }
        Ok(())
    }
}

/// Sets a record aside as `to`, which holds the note, on a file system that cannot exchange them. Its
/// number is in use at any moment: the note replaces the record in one step.
fn replace_record(record: &Path, to: &Path) -> io::Result<()> {
    let note = to.with_extension("note");
    if fs::symlink_metadata(record)?.is_dir() {
        let message = "this file system cannot exchange a directory with a file; replace the directory with an empty file, and repair again";
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    fs::rename(to, &note)?;
    // Some file systems have no hard links either. What is not a file has no content to keep.
    if fs::hard_link(record, to).is_err() && fs::symlink_metadata(record)?.is_file() {
        fs::copy(record, to)?;
        File::open(to)?.sync_all()?;
    }
    sync_parent(to)?;
    fs::rename(note, record)
}

/// Gives a file that root created to the owner of the state directory.
fn adopt(path: &Path, (user, group): (u32, u32)) -> io::Result<()> {
    match rustix::process::geteuid().is_root() {
        true => chown(path, Some(user), Some(group)),
        false => Ok(()),
    }
}

/// Makes a directory writable, which it must be to be moved.
fn unlock(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::set_permissions(path, Permissions::from_mode(0o700)),
        false => Ok(()),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_directory)
}

/// Returns the total size of the files below a path. What cannot be read counts nothing.
fn bytes_of(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| bytes_of(&entry.path())).sum()
        }
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

#[cfg(test)]
#[path = "maintenance_tests.rs"]
mod tests;
