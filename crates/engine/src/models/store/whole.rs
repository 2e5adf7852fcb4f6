//! Finds whether a kept version is whole, and discards one that is not. Extends [`Store`].

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use crate::models::store::{
    Store, records,
    verify::{self, Damage, Stamps},
};

/// Ends the name of a damaged version.
pub(super) const DISCARDED: &str = ".damaged";

impl Store {
    /// Returns whether a version is kept. It may be damaged.
    pub fn has(&self, version: &str) -> bool {
        self.layout.version(version).symlink_metadata().is_ok_and(|found| found.is_dir())
    }

    /// Returns whether a version is kept and every file is as it was staged. Discards it otherwise,
    /// so that it can be staged again. Blocking.
    pub fn is_whole(&self, version: &str) -> bool {
        if records::is_missing(&self.layout, version) {
            return false;
        }
        match verify::compare_again(&self.layout, version) {
            Ok(stamps) => {
                self.remember_whole(version, &stamps);
                true
            }
            // It was retired meanwhile.
            Err(_) if records::is_missing(&self.layout, version) => false,
            Err(damage) => {
                self.found_damaged_version(version, &damage);
                false
            }
        }
    }

    /// Logs and discards a damaged version. One that is unreadable for now stays.
    pub(super) fn found_damaged_version(&self, version: &str, damage: &Damage) {
        let (directory, reason) = (self.layout.version(version), damage.reason.as_str());
        tracing::error!(directory = %directory.display(), reason, "a kept version is damaged, not serving it");
        if damage.is_certain
            && let Err(error) = self.discard(version)
        {
            tracing::warn!(version, %error, "failed to discard a damaged version");
        }
    }

    /// Stops keeping a damaged version: it gets another name, under which it stays until it is staged
    /// again or no record names it any more.
    ///
    /// # Errors
    /// A disk error.
    pub fn discard(&self, version: &str) -> io::Result<()> {
        let path = self.layout.version(version);
        let mut discarded = path.clone().into_os_string();
        discarded.push(DISCARDED);
        rename_aside(&path, Path::new(&discarded))
    }

    /// Stores the metadata of a whole version's large files, so that the next start need not read them.
    pub(super) fn remember_whole(&self, version: &str, stamps: &Stamps) {
        if Stamps::read(&self.layout, version) != *stamps
            && let Err(error) = stamps.write(&self.layout, version)
        {
            tracing::warn!(version, %error, "failed to store what was verified");
        }
    }
}

/// Renames a file or a read-only directory, in place of what has the new name.
pub(super) fn rename_aside(path: &Path, to: &Path) -> io::Result<()> {
    if path == to {
        return Ok(());
    }
    if fs::symlink_metadata(to).is_ok() {
        remove_all(to)?;
    }
    if fs::symlink_metadata(path)?.is_dir() {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    fs::rename(path, to)
}

/// Removes a file or a directory with its content.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    fs::remove_dir_all(path)
}
