//! The part of a file that was downloaded so far, with what is needed to continue. Kept in the
//! fetcher's own folder until the file is complete.

use std::{
    fs::File as LocalFile,
    io::{self, Read as _},
};

use serde::{Deserialize, Serialize};

use crate::{
    digest,
    folder::{Folder, OWN},
};

/// Shorter files are not resumed.
const RESUMED_BYTES_MIN: u64 = 1 << 20;
/// Maximum bytes of a [`ResumeInfo`].
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// Where to begin with a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offset {
    /// Bytes that were already downloaded.
    pub(crate) bytes: u64,
    /// The strong validator of these bytes.
    pub(crate) validator: Option<String>,
}

/// What a part must have in common with the file to continue it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    /// The digest or ETag of the file, or the snapshot's id.
    pub(crate) identity: &'a str,
    /// Whether the result is compared with a digest, so that a validator is not necessary.
    pub(crate) is_verified: bool,
    /// Length, if known.
    pub(crate) bytes: Option<u64>,
}

/// A file that is not complete yet.
pub(crate) struct Part {
    pub(crate) file: LocalFile,
    /// Where to continue.
    pub(crate) offset: Offset,
    name: String,
    identity: String,
}

/// Says which bytes a part has.
#[derive(Serialize, Deserialize)]
struct ResumeInfo {
    /// See [`Expected::identity`].
    identity: String,
    validator: Option<String>,
}

impl Part {
    /// Returns the name of a path's part. It is hidden, as all our own files are: the supervisor
    /// removes others that no snapshot lists.
    pub(crate) fn name(path: &str) -> String {
        format!(".{}", &digest::sha256(path.as_bytes())[..32])
    }

    /// Returns how many bytes of a file may have been downloaded.
    pub(crate) fn bytes(folder: &Folder, path: &str) -> u64 {
        let found = folder.read(&data(&Self::name(path))).ok().flatten();
        found.and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len())
    }

    /// Opens the part of a file, which is empty if it cannot be continued.
    pub(crate) fn open(folder: &Folder, path: &str, expected: Expected<'_>) -> io::Result<Self> {
        let name = Self::name(path);
        let info = read_info(folder, &name).filter(|info| info.identity == expected.identity);
        let local = folder.append(&data(&name))?;
        let offset = Offset::default();
        let identity = expected.identity.to_owned();
        let mut part = Self { file: local, offset, name, identity };
        let bytes = part.file.metadata()?.len();
        match info {
            Some(info) if info.validator.is_some() || expected.is_verified => {
                part.offset = Offset { bytes, validator: info.validator };
            }
            _ => part.restart()?,
        }
        if expected.bytes.is_some_and(|length| bytes > length) {
            part.restart()?;
        }
        Ok(part)
    }

    /// Creates an empty part for a file that another file contains. [`Part::complete`] completes it.
    pub(crate) fn create(folder: &Folder, path: &str) -> io::Result<Self> {
        let name = Self::name(path);
        folder.remove(&info_path(&name))?;
        let file = folder.append(&data(&name))?;
        file.set_len(0)?;
        Ok(Self { file, offset: Offset::default(), name, identity: String::new() })
    }

    /// Notes the digest of a complete part.
    pub(crate) fn complete(&self, folder: &Folder, sha256: &str) -> io::Result<()> {
        let info = ResumeInfo { identity: sha256.to_owned(), validator: None };
        folder.write(&info_path(&self.name), &serde_json::to_vec(&info)?)
    }

    /// Empties the part.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.offset = Offset::default();
        self.file.set_len(0)
    }

    /// Notes how to continue, if the file is long enough.
    pub(crate) fn remember(
        &self,
        folder: &Folder,
        total: Option<u64>,
        validator: Option<String>,
    ) -> io::Result<()> {
        if total.is_some_and(|total| total < RESUMED_BYTES_MIN) {
            return Ok(());
        }
        let info = ResumeInfo { identity: self.identity.clone(), validator };
        folder.write(&info_path(&self.name), &serde_json::to_vec(&info)?)
    }

    /// Removes the part.
    pub(crate) fn discard(&self, folder: &Folder) {
        let _ = folder.remove(&data(&self.name));
        let _ = folder.remove(&info_path(&self.name));
    }

    /// Removes all parts.
    pub(crate) fn discard_all(folder: &Folder) {
        let names = folder.own_names();
        for name in names.iter().filter_map(|name| name.strip_suffix(".part")) {
            let _ = folder.remove(&data(name));
            let _ = folder.remove(&info_path(name));
        }
    }

    /// Moves the complete file into place.
    pub(crate) fn finish(&self, folder: &Folder, path: &str) -> io::Result<()> {
        folder.rename(&data(&self.name), path)?;
        folder.remove(&info_path(&self.name))
    }
}

fn data(name: &str) -> String {
    format!("{OWN}/{name}.part")
}

fn info_path(name: &str) -> String {
    format!("{OWN}/{name}.json")
}

fn read_info(folder: &Folder, name: &str) -> Option<ResumeInfo> {
    let mut text = Vec::new();
    let file = folder.read(&info_path(name)).ok()??;
    file.take(NOTE_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
