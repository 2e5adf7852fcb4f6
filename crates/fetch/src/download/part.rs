//! The part of a file that was downloaded so far, with what is needed to continue. Kept in the
//! fetcher's own folder until the file is complete.

use std::{
    fs::File as LocalFile,
    io::{self, Read as _},
};

use serde::{Deserialize, Serialize};

use crate::{
    digest::{self, Digest},
    folder::{Folder, OWN},
    sources::{File, Offset},
};

/// Shorter files are not resumed.
const RESUMED_BYTES_MIN: u64 = 1 << 20;
/// Maximum bytes of a [`Note`].
const NOTE_BYTES_MAX: u64 = 64 * 1024;

/// A file in the making.
pub(super) struct Part {
    pub(super) file: LocalFile,
    /// Where to continue.
    pub(super) offset: Offset,
    name: String,
    identity: String,
}

/// Says which bytes a part has.
#[derive(Serialize, Deserialize)]
struct Note {
    /// The digest or ETag of the file, or the snapshot's id.
    identity: String,
    validator: Option<String>,
}

impl Part {
    /// Returns the name of a path's part.
    pub(super) fn name(path: &str) -> String {
        digest::sha256(path.as_bytes())[..32].to_owned()
    }

    /// Returns how many bytes of a file may have been downloaded.
    pub(super) fn bytes(folder: &Folder, path: &str) -> u64 {
        let found = folder.read(&data(&Self::name(path))).ok().flatten();
        found.and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len())
    }

    /// Opens the part of a file, which is empty if it cannot be continued.
    pub(super) fn open(folder: &Folder, file: &File, snapshot: &str) -> io::Result<Self> {
        let name = Self::name(&file.path);
        let identity = match (&file.digest, &file.etag) {
            (Some(Digest::Sha256(hex) | Digest::GitBlob(hex)), _) => hex.clone(),
            (None, Some(etag)) => etag.clone(),
            (None, None) => snapshot.to_owned(),
        };
        let note = read_note(folder, &name).filter(|note| note.identity == identity);
        let local = folder.append(&data(&name))?;
        let offset = Offset::default();
        let mut part = Self { file: local, offset, name, identity };
        let bytes = part.file.metadata()?.len();
        match note {
            // With a digest, the result is verified, so a validator is not necessary.
            Some(note) if note.validator.is_some() || file.digest.is_some() => {
                part.offset = Offset { bytes, validator: note.validator };
            }
            _ => part.restart()?,
        }
        if file.bytes.is_some_and(|length| bytes > length) {
            part.restart()?;
        }
        Ok(part)
    }

    /// Empties the part.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.offset = Offset::default();
        self.file.set_len(0)
    }

    /// Notes how to continue, if the file is long enough.
    pub(super) fn remember(
        &self,
        folder: &Folder,
        total: Option<u64>,
        validator: Option<String>,
    ) -> io::Result<()> {
        if total.is_some_and(|total| total < RESUMED_BYTES_MIN) {
            return Ok(());
        }
        let note = Note { identity: self.identity.clone(), validator };
        folder.write(&self::note(&self.name), &serde_json::to_vec(&note)?)
    }

    /// Removes the part.
    pub(super) fn discard(&self, folder: &Folder) {
        let _ = folder.remove(&data(&self.name));
        let _ = folder.remove(&note(&self.name));
    }

    /// Moves the complete file into place.
    pub(super) fn finish(&self, folder: &Folder, path: &str) -> io::Result<()> {
        folder.rename(&data(&self.name), path)?;
        folder.remove(&note(&self.name))
    }
}

fn data(name: &str) -> String {
    format!("{OWN}/{name}.part")
}

fn note(name: &str) -> String {
    format!("{OWN}/{name}.json")
}

fn read_note(folder: &Folder, name: &str) -> Option<Note> {
    let mut text = Vec::new();
    let file = folder.read(&note(name)).ok()??;
    file.take(NOTE_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
