//! Unpacks layers that are tar archives into parts, which the download then finds complete. Later
//! layers replace or delete files of earlier ones. Links are refused.

use std::{
    collections::BTreeMap,
    fs::File as LocalFile,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    ops::ControlFlow,
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
    folder::SPARE_BYTES,
    part::Part,
    sources::source::{File, UnpackTarget},
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
/// Bytes written between two looks at the free space.
const CHECK_BYTES: usize = 16 << 20;

/// What an entry does.
#[derive(Debug, PartialEq, Eq)]
enum Change<'a> {
    /// Adds a file of the model.
    File(&'a str),
    /// Removes a file or folder of the image.
    Remove(String),
    /// Removes the content of a folder of the image.
    Empty(&'a str),
    None,
}

/// Unpacks the archives, in order, and returns their files.
pub(super) fn unpack(
    target: &UnpackTarget<'_>,
    archives: &[File],
) -> Result<Vec<File>, FetchError> {
    let check_count = |files: usize| match files > target.files_max {
        true => Err(FetchErrorKind::TooLarge
            .because(format!("the layers contain more than {} files", target.files_max))),
        false => Ok(()),
    };
    let root = if has_folder(target, archives)? { FOLDER } else { "" };
    let mut budget = Budget { bytes: target.bytes_max, entries: ENTRIES_MAX };
    // By path in the image.
    let mut files: BTreeMap<String, File> = BTreeMap::new();
    for archive in archives {
        // Whiteouts apply to earlier layers only.
        let mut added = BTreeMap::new();
        each(target, archive, &mut budget, |path, entry| {
            match change(path, root, entry.header().entry_type())? {
                Change::File(inside) => {
                    if !is_inside(inside) {
                        let message = format!("a layer contains {inside:?}, outside the model");
                        return Err(FetchErrorKind::Malformed.because(message));
                    }
                    check_count(added.len() + 1)?;
                    added.insert(path.to_owned(), extract(target, inside, entry)?);
                }
                Change::Remove(path) => {
                    let folder = format!("{path}/");
                    files.retain(|name, _| *name != path && !name.starts_with(&folder));
                }
                Change::Empty(folder) => files.retain(|name, _| !name.starts_with(folder)),
                Change::None => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        files.extend(added);
        check_count(files.len())?;
    }
    match files.is_empty() && !archives.is_empty() {
        true => Err(FetchErrorKind::NotFound.because("the image contains no files")),
        false => Ok(files.into_values().collect()),
    }
}

/// Returns whether the model is in [`FOLDER`]. Its layer is usually the last, so that is read first.
fn has_folder(target: &UnpackTarget<'_>, archives: &[File]) -> Result<bool, FetchError> {
    let mut budget = Budget { bytes: target.bytes_max, entries: ENTRIES_MAX };
    let mut is_found = false;
    for archive in archives.iter().rev() {
        each(target, archive, &mut budget, |path, entry| {
            is_found = path.starts_with(FOLDER) && is_file(entry.header().entry_type());
            Ok(if is_found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if is_found {
            break;
        }
    }
    Ok(is_found)
}

/// What may still be unpacked.
struct Budget {
    bytes: u64,
    entries: usize,
}

type Entry<'a> = tar::Entry<'a, Reported<'a>>;

/// Calls `visit` with each entry and its path, until it breaks.
fn each(
    target: &UnpackTarget<'_>,
    archive: &File,
    budget: &mut Budget,
    mut visit: impl FnMut(&str, &mut Entry<'_>) -> Result<ControlFlow<()>, FetchError>,
) -> Result<(), FetchError> {
    let name = &archive.path;
    let malformed = |reason: &dyn std::fmt::Display| {
        FetchErrorKind::Malformed.because(format!("{name}: not a tar archive: {reason}"))
    };
    let file = target.folder.read(name).ok().flatten();
    let file =
        file.ok_or_else(|| FetchErrorKind::Internal.because(format!("{name} is missing")))?;
    let limit = budget.bytes.saturating_add(HEADERS_BYTES_MAX);
    let bytes = decompressed(file).map_err(|error| malformed(&error))?;
    let mut archive = Archive::new(Reported { bytes: bytes.take(limit), tick: target.tick });
    for entry in archive.entries().map_err(|error| malformed(&error))? {
        let mut entry = entry.map_err(|error| malformed(&error))?;
        let left = (budget.bytes.checked_sub(entry.size()), budget.entries.checked_sub(1));
        let (Some(bytes), Some(entries)) = left else {
            let message = format!("{name}: unpacked, the layers exceed {} bytes", target.bytes_max);
            return Err(FetchErrorKind::TooLarge.because(message));
        };
        *budget = Budget { bytes, entries };
        let path = entry.path_bytes().into_owned();
        let path = std::str::from_utf8(&path).map_err(|error| malformed(&error))?;
        let path = path.trim_start_matches("./").trim_start_matches('/').to_owned();
        if visit(&path, &mut entry)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Reports while an archive is read that the work goes on. Skipping a long file takes time, too.
struct Reported<'a> {
    bytes: io::Take<Box<dyn Read>>,
    tick: &'a dyn Fn(),
}

impl Read for Reported<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.tick)();
        self.bytes.read(buffer)
    }
}

/// Returns the bytes of an archive, decompressed if it is gzip.
fn decompressed(file: LocalFile) -> io::Result<Box<dyn Read>> {
    let mut file = BufReader::with_capacity(CHUNK_BYTES, file);
    let is_gzip = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if is_gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Returns what an entry does to the model below `root`.
fn change<'a>(path: &'a str, root: &str, kind: EntryType) -> Result<Change<'a>, FetchError> {
    let at = path.rfind('/').map_or(0, |slash| slash + 1);
    let (folder, name) = path.split_at(at);
    // Also those of the folders above the model.
    if name == OPAQUE {
        return Ok(Change::Empty(folder));
    }
    if let Some(name) = name.strip_prefix(WHITEOUT) {
        return Ok(Change::Remove(format!("{folder}{name}")));
    }
    match path.strip_prefix(root) {
        Some(inside) if !inside.is_empty() && !kind.is_dir() => match is_file(kind) {
            true => Ok(Change::File(inside)),
            false => Err(FetchErrorKind::Malformed.because(format!(
                "{inside} in a layer is a link or a special file; put plain files below /models"
            ))),
        },
        _ => Ok(Change::None),
    }
}

fn is_file(kind: EntryType) -> bool {
    matches!(kind, EntryType::Regular | EntryType::Continuous)
}

/// Writes a file into a part.
fn extract(
    target: &UnpackTarget<'_>,
    path: &str,
    entry: &mut Entry<'_>,
) -> Result<File, FetchError> {
    let failed = |error: io::Error| {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FetchErrorKind::Space,
            io::ErrorKind::FileTooLarge => FetchErrorKind::TooLarge,
            // Archives end in the middle of a file, too.
            _ => FetchErrorKind::Malformed,
        };
        kind.because(format!("unpacking {path}: {error}"))
    };
    check_space(target, path, entry.size())?;
    let mut part = Part::create(target.folder, path).map_err(failed)?;
    let (mut sha256, mut bytes, mut unchecked) = (Context::new(&SHA256), 0, 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = entry.read(&mut chunk).map_err(failed)?;
        if read == 0 {
            break;
        }
        part.file.write_all(&chunk[..read]).map_err(failed)?;
        sha256.update(&chunk[..read]);
        bytes += read as u64;
        unchecked += read;
        if unchecked >= CHECK_BYTES {
            // Others write to the disk, too.
            check_space(target, path, 0)?;
            unchecked = 0;
        }
    }
    let sha256 = digest::hex(sha256);
    part.complete(target.folder, &sha256).map_err(failed)?;
    let digest = Some(Digest::Sha256(sha256));
    Ok(File { path: path.to_owned(), bytes: Some(bytes), digest, identity: None })
}

/// Fails if the disk has no room for these bytes.
fn check_space(target: &UnpackTarget<'_>, path: &str, bytes: u64) -> Result<(), FetchError> {
    let free = target.folder.free_bytes().unwrap_or(u64::MAX);
    match bytes.saturating_add(SPARE_BYTES) > free {
        true => Err(FetchErrorKind::Space.because(format!(
            "unpacking {path}: {bytes} bytes to write, and {free} bytes are free on the disk of the \
             state directory"
        ))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::folder::{Folder, OWN};

    /// Entries: a path and its text, or a kind.
    type Described<'a> = (&'a str, Result<&'a str, EntryType>);

    fn header(path: &str, kind: EntryType, bytes: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        // The builder refuses paths that climb.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_size(bytes);
        header.set_cksum();
        header
    }

    fn archive(entries: &[Described<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let text = content.unwrap_or_default();
            let kind = content.err().unwrap_or(EntryType::Regular);
            builder.append(&header(path, kind, text.len() as u64), text.as_bytes()).unwrap();
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
        let target = UnpackTarget { folder: &folder, bytes_max, files_max: 3, tick: &|| {} };
        let files = unpack(&target, &archives)?;
        let read = |file: File| {
            let mut text = String::new();
            let part = format!("{OWN}/{}.part", Part::name(&file.path));
            folder.read(&part).unwrap().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(file.digest, Some(Digest::Sha256(digest::sha256(text.as_bytes()))));
            (file.path, text)
        };
        Ok(files.into_iter().map(read).collect())
    }

    fn pair(path: &str, text: &str) -> (String, String) {
        (path.to_owned(), text.to_owned())
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
        assert_eq!(files, [pair("a", "new"), pair("c", "c")]);
        let opaque = archive(&[("models/.wh..wh..opq", Ok("")), ("models/d", Ok("d"))]);
        assert_eq!(unpacked(&[first, opaque], 100).unwrap(), [pair("d", "d")]);
        assert_eq!(unpacked(&[archive(&[("x", Ok("y"))])], 100).unwrap(), [pair("x", "y")]);
    }

    #[test]
    fn the_models_folder_is_deleted_with_those_above_it() {
        let first = archive(&[("models/a", Ok("a")), ("models/onnx/b", Ok("b"))]);
        for whiteout in [".wh.models", "./.wh.models", ".wh..wh..opq", "models/.wh..wh..opq"] {
            let second = archive(&[(whiteout, Ok("")), ("models/c", Ok("c"))]);
            let files = unpacked(&[first.clone(), second], 100).unwrap();
            assert_eq!(files, [pair("c", "c")], "{whiteout}");
        }
        let error = unpacked(&[first, archive(&[(".wh.models", Ok(""))])], 100).unwrap_err();
        assert_eq!(error.kind, FetchErrorKind::NotFound);
    }

    #[test]
    fn every_written_byte_counts_and_must_fit_on_the_disk() {
        let layer = |kind, bytes, text: &[u8]| {
            let mut builder = tar::Builder::new(Vec::new());
            builder.append(&header("models/a", kind, bytes), text).unwrap();
            builder.into_inner().unwrap()
        };
        let unusual = layer(EntryType::Continuous, 11, b"0123456789a");
        assert_eq!(
            unpacked(std::slice::from_ref(&unusual), 10).unwrap_err().kind,
            FetchErrorKind::TooLarge
        );
        assert_eq!(unpacked(&[unusual], 11).unwrap(), [pair("a", "0123456789a")]);
        let long = layer(EntryType::Regular, 1 << 60, b"0");
        let error = unpacked(&[long], u64::MAX).unwrap_err();
        assert_eq!(error.kind, FetchErrorKind::Space, "{error}");
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
