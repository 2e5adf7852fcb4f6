//! Unpacks layers that are tar archives into parts, which the download then finds complete. Later
//! layers replace or delete files of earlier ones. Links are refused.

use std::{
    collections::BTreeMap,
    fs::File as LocalFile,
    io::{self, BufRead as _, BufReader, Read, Write as _},
};

use flate2::bufread::MultiGzDecoder;
use onnxd_proto::domain::{
    fetch::{FetchError, FetchErrorKind},
    is_inside,
};
use ring::digest::{Context, SHA256};
use tar::{Archive, EntryType};

use crate::{
    digest::{self, Digest},
    part::Part,
    sources::source::{File, Place},
};

/// The folder of a model in an image, as KServe's modelcars have it.
const FOLDER: &str = "models/";
/// Prefix of the name of a file that deletes another, and the name that deletes a whole folder.
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// Maximum entries of all layers.
const ENTRIES_MAX: usize = 200_000;
/// Bytes of headers and padding, besides the files themselves.
const HEADERS_BYTES_MAX: u64 = 256 << 20;
/// Bytes copied at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// What an entry does.
#[derive(Debug, PartialEq, Eq)]
enum Change<'a> {
    /// Adds a file.
    File(&'a str),
    /// Removes a file or folder.
    Remove(String),
    /// Removes the content of a folder.
    Empty(&'a str),
    None,
}

/// Unpacks the archives, in order, and returns their files.
pub(super) fn unpack(place: &Place<'_>, archives: &[File]) -> Result<Vec<File>, FetchError> {
    let mut budget = Budget { bytes: place.bytes_max, entries: ENTRIES_MAX };
    let mut has_folder = false;
    for archive in archives {
        each(place, archive, &mut budget, |path, kind, _| {
            has_folder |= path.starts_with(FOLDER) && kind.is_file();
            Ok(())
        })?;
    }
    let check_count = |files: usize| match files > place.files_max {
        true => Err(FetchErrorKind::TooLarge
            .because(format!("the layers contain more than {} files", place.files_max))),
        false => Ok(()),
    };
    let root = if has_folder { FOLDER } else { "" };
    let mut budget = Budget { bytes: place.bytes_max, entries: ENTRIES_MAX };
    let mut files = BTreeMap::new();
    for archive in archives {
        // Whiteouts apply to earlier layers only.
        let mut added = BTreeMap::new();
        each(place, archive, &mut budget, |path, kind, content| {
            let Some(path) = path.strip_prefix(root) else { return Ok(()) };
            match change(path, kind)? {
                Change::File(path) => {
                    if !is_inside(path) {
                        let message = format!("a layer contains {path:?}, outside the model");
                        return Err(FetchErrorKind::Malformed.because(message));
                    }
                    check_count(added.len() + 1)?;
                    added.insert(path.to_owned(), extract(place, path, content)?);
                }
                Change::Remove(path) => {
                    let folder = format!("{path}/");
                    files.retain(|name: &String, _: &mut File| {
                        *name != path && !name.starts_with(&folder)
                    });
                }
                Change::Empty(folder) => files.retain(|name, _| !name.starts_with(folder)),
                Change::None => {}
            }
            Ok(())
        })?;
        files.extend(added);
        check_count(files.len())?;
    }
    match files.is_empty() && !archives.is_empty() {
        true => Err(FetchErrorKind::NotFound.because("the image contains no files")),
        false => Ok(files.into_values().collect()),
    }
}

/// What may still be unpacked.
struct Budget {
    bytes: u64,
    entries: usize,
}

/// Calls `visit` with the path, kind and content of each entry.
fn each(
    place: &Place<'_>,
    archive: &File,
    budget: &mut Budget,
    mut visit: impl FnMut(&str, EntryType, &mut dyn Read) -> Result<(), FetchError>,
) -> Result<(), FetchError> {
    let name = &archive.path;
    let malformed = |reason: &dyn std::fmt::Display| {
        FetchErrorKind::Malformed.because(format!("{name}: not a tar archive: {reason}"))
    };
    let file = place.folder.read(name).ok().flatten();
    let file =
        file.ok_or_else(|| FetchErrorKind::Internal.because(format!("{name} is missing")))?;
    let limit = budget.bytes.saturating_add(HEADERS_BYTES_MAX);
    let mut archive =
        Archive::new(decompressed(file).map_err(|error| malformed(&error))?.take(limit));
    for entry in archive.entries().map_err(|error| malformed(&error))? {
        let mut entry = entry.map_err(|error| malformed(&error))?;
        let kind = entry.header().entry_type();
        let bytes = if kind.is_file() { entry.size() } else { 0 };
        let left = (budget.bytes.checked_sub(bytes), budget.entries.checked_sub(1));
        let (Some(bytes), Some(entries)) = left else {
            let message = format!("{name}: unpacked, the layers exceed {} bytes", place.bytes_max);
            return Err(FetchErrorKind::TooLarge.because(message));
        };
        *budget = Budget { bytes, entries };
        let path = entry.path_bytes().into_owned();
        let path = std::str::from_utf8(&path).map_err(|error| malformed(&error))?;
        let path = path.trim_start_matches("./").trim_start_matches('/').to_owned();
        visit(&path, kind, &mut entry)?;
    }
    Ok(())
}

/// Returns the bytes of an archive, decompressed if it is gzip.
fn decompressed(file: LocalFile) -> io::Result<Box<dyn Read>> {
    let mut file = BufReader::with_capacity(CHUNK_BYTES, file);
    let is_gzip = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if is_gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Returns what an entry of the model's folder does.
fn change(path: &str, kind: EntryType) -> Result<Change<'_>, FetchError> {
    if kind.is_dir() || path.is_empty() {
        return Ok(Change::None);
    }
    let at = path.rfind('/').map_or(0, |slash| slash + 1);
    let (folder, name) = path.split_at(at);
    if name == OPAQUE {
        return Ok(Change::Empty(folder));
    }
    if let Some(name) = name.strip_prefix(WHITEOUT) {
        return Ok(Change::Remove(format!("{folder}{name}")));
    }
    match kind {
        EntryType::Regular | EntryType::Continuous => Ok(Change::File(path)),
        _ => Err(FetchErrorKind::Malformed.because(format!(
            "{path} in a layer is a link or a special file; put plain files below /models"
        ))),
    }
}

/// Writes a file into a part.
fn extract(place: &Place<'_>, path: &str, content: &mut dyn Read) -> Result<File, FetchError> {
    let write = || -> io::Result<(u64, String)> {
        let mut part = Part::create(place.folder, path)?;
        let (mut sha256, mut bytes) = (Context::new(&SHA256), 0);
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = content.read(&mut chunk)?;
            if read == 0 {
                let sha256 = digest::hex(sha256);
                part.complete(place.folder, &sha256)?;
                return Ok((bytes, sha256));
            }
            part.file.write_all(&chunk[..read])?;
            sha256.update(&chunk[..read]);
            bytes += read as u64;
        }
    };
    let (bytes, sha256) = write_all(write, path)?;
    let digest = Some(Digest::Sha256(sha256));
    Ok(File { path: path.to_owned(), bytes: Some(bytes), digest, identity: None })
}

fn write_all<T>(write: impl FnOnce() -> io::Result<T>, path: &str) -> Result<T, FetchError> {
    write().map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FetchErrorKind::Space,
            io::ErrorKind::FileTooLarge => FetchErrorKind::TooLarge,
            // Archives end in the middle of a file, too.
            _ => FetchErrorKind::Malformed,
        };
        kind.because(format!("unpacking {path}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::folder::{Folder, OWN};

    /// Entries: a path and its text, or a kind.
    type Entry<'a> = (&'a str, Result<&'a str, EntryType>);

    fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            // The builder refuses paths that climb.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            let text = content.unwrap_or_default();
            header.set_size(text.len() as u64);
            if let Err(kind) = content {
                header.set_entry_type(*kind);
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(layers: &[Vec<u8>], bytes_max: u64) -> Result<Vec<(String, String)>, FetchError> {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::open(directory.path()).unwrap();
        let mut archives = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let path = format!("{OWN}/{number}.layer");
            folder.write(&path, layer).unwrap();
            archives.push(File { path, ..File::default() });
        }
        let place = Place { folder: &folder, bytes_max, files_max: 3 };
        let files = unpack(&place, &archives)?;
        let read = |file: File| {
            let mut text = String::new();
            let part = format!("{OWN}/{}.part", Part::name(&file.path));
            folder.read(&part).unwrap().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(file.digest, Some(Digest::Sha256(digest::sha256(text.as_bytes()))));
            (file.path, text)
        };
        Ok(files.into_iter().map(read).collect())
    }

    #[test]
    fn later_layers_replace_and_delete_files() {
        let first = archive(&[
            ("models/", Err(EntryType::Directory)),
            ("models/a", Ok("old")),
            ("models/onnx/b", Ok("b")),
            ("./models/c", Ok("c")),
            ("bin/sh", Err(EntryType::Symlink)),
        ]);
        let second = archive(&[("models/a", Ok("new")), ("models/.wh.onnx", Ok(""))]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&second).unwrap();
        let files = unpacked(&[first.clone(), gzip.finish().unwrap()], 100).unwrap();
        let pair = |path: &str, text: &str| (path.to_owned(), text.to_owned());
        assert_eq!(files, [pair("a", "new"), pair("c", "c")]);
        let opaque = archive(&[("models/.wh..wh..opq", Ok("")), ("models/d", Ok("d"))]);
        assert_eq!(unpacked(&[first, opaque], 100).unwrap(), [pair("d", "d")]);
        assert_eq!(unpacked(&[archive(&[("x", Ok("y"))])], 100).unwrap(), [pair("x", "y")]);
    }

    #[test]
    fn links_climbing_paths_and_bombs_are_refused() {
        let malformed = FetchErrorKind::Malformed;
        for (entries, kind) in [
            (vec![("models/a", Ok("x")), ("models/b", Err(EntryType::Symlink))], malformed),
            (vec![("models/a", Ok("x")), ("models/b", Err(EntryType::Link))], malformed),
            (vec![("models/a", Ok("x")), ("models/b", Err(EntryType::Fifo))], malformed),
            (vec![("models/../../x", Ok("x"))], malformed),
            (vec![("../x", Ok("x"))], malformed),
            (
                vec![("a", Ok("")), ("b", Ok("")), ("c", Ok("")), ("d", Ok(""))],
                FetchErrorKind::TooLarge,
            ),
            (vec![("a", Ok("0123456789a"))], FetchErrorKind::TooLarge),
            (vec![], FetchErrorKind::NotFound),
        ] {
            let error = unpacked(&[archive(&entries)], 10).unwrap_err();
            assert_eq!(error.kind, kind, "{entries:?}: {error}");
        }
        assert_eq!(unpacked(&[b"no tar".to_vec()], 10).unwrap_err().kind, malformed);
    }
}
