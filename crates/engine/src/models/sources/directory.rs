//! Where versions come from. A source copies its files into a staging directory; what was
//! written, not what was offered, makes the version. So far a source is a directory with the
//! files of the Hugging Face hub.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use onnxd_proto::domain::{Refusal, RefusalKind};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use sha2::{Digest, Sha256};

use crate::models::{
    disk::{hex, io_refusal},
    sources::{
        checksums::{self, Checksums},
        digests::{Digests, Identity},
    },
};

/// Files that a version takes from a directory where they are there. The model itself and its
/// external data are found by [`Directory::model_files`].
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

/// One copied file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedFile {
    /// Relative to the version's directory, with `/`.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256 of what was written, in hex.
    pub sha256: String,
}

/// A file of a source, open for reading.
#[derive(Debug)]
pub struct SourceFile {
    /// Relative to the version's directory, with `/`.
    pub path: String,
    /// As it was when it was opened.
    pub identity: Identity,
    file: File,
}

/// A directory that holds a model.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Held open, so that a link that is moved to another directory meanwhile cannot mix two.
    handle: File,
}

impl Directory {
    /// Opens the directory; a link to it is followed once, here.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] with the path.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
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
    pub fn files(&self) -> Result<Vec<SourceFile>, Refusal> {
        let mut paths = self.model_files()?;
        paths.extend(SMALL_FILES.iter().map(ToString::to_string));
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            if let Some(file) = self.open_file(&path)? {
                let identity = Identity::of(&file).map_err(|error| self.refusal(&path, &error))?;
                files.push(SourceFile { path, file, identity });
            }
        }
        let (all, most) = (bytes_of(&files), VERSION_BYTES_MAX);
        if all > most {
            return Err(RefusalKind::Contract.because(format!(
                "{}: its files have {all} bytes, and a version has at most {most}",
                self.path.display()
            )));
        }
        Ok(files)
    }

    /// Copies the files into `target`, which exists and is empty; `copied` hears of bytes done
    /// and in all. Blocking.
    ///
    /// # Errors
    /// `Space` where the disk has no room for them, `Internal` for other faults of reading and writing. All
    /// name the file.
    pub fn copy_to(
        &self,
        files: Vec<SourceFile>,
        target: &Path,
        digests: &Digests,
        copied: &dyn Fn(u64, u64),
    ) -> Result<Vec<StagedFile>, Refusal> {
        let all = bytes_of(&files);
        let free = free_bytes(target).map_err(|error| io_refusal(target, &error))?;
        if all > free {
            return Err(RefusalKind::Space.because(format!(
                "{}: the version has {all} bytes, and {free} are free",
                target.display()
            )));
        }
        let mut done = 0;
        let mut staged = Vec::new();
        for SourceFile { path, mut file, identity } in files {
            let mut count = |bytes| {
                done += bytes;
                copied(done, all);
                done <= VERSION_BYTES_MAX
            };
            let (bytes, sha256) = copy(&mut file, &target.join(&path), &mut count)
                .map_err(|error| self.refusal(&path, &error))?;
            digests.remember(&file, identity, &sha256);
            staged.push(StagedFile { path, bytes, sha256 });
        }
        Ok(staged)
    }

    /// Compares files with the `SHA256SUMS` of the source, if it has one.
    ///
    /// # Errors
    /// `Checksum` where one differs or is missing, or where a line cannot be read.
    pub fn verify(&self, files: &[StagedFile]) -> Result<(), Refusal> {
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
fn bytes_of(files: &[SourceFile]) -> u64 {
    files.iter().fold(0, |sum, file| sum.saturating_add(file.identity.bytes()))
}

/// What this process may still write to the file system of `path`, statvfs(3).
fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Copies one file; gives its length and SHA-256. `count` hears of each part and says whether
/// there is room for it.
fn copy(
    from: &mut File,
    to: &Path,
    count: &mut dyn FnMut(u64) -> bool,
) -> io::Result<(u64, String)> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
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
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn stage(source: &Path) -> Result<Vec<String>, Refusal> {
        let target = tempfile::tempdir().unwrap();
        let source = Directory::open(source)?;
        let digests = Digests::default();
        let files = source.copy_to(source.files()?, target.path(), &digests, &|_, _| {})?;
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn a_version_takes_the_model_its_external_data_and_the_known_files_alone() {
        let source = tempfile::tempdir().unwrap();
        fs::create_dir_all(source.path().join("1_Pooling")).unwrap();
        for name in [
            "model.onnx",
            "model.onnx_data",
            "weights.data",
            "1_Pooling/config.json",
            "tokenizer.json",
            "pytorch_model.bin",
            "model_fp16.onnx",
            "README.md",
        ] {
            fs::write(source.path().join(name), name).unwrap();
        }
        let expected = [
            "1_Pooling/config.json",
            "model.onnx",
            "model.onnx_data",
            "tokenizer.json",
            "weights.data",
        ];
        assert_eq!(stage(source.path()).unwrap(), expected);
    }

    #[test]
    fn nothing_outside_the_directory_gets_into_a_version() {
        for name in ["model.onnx", "tokenizer.json", "model.onnx_data", "1_Pooling"] {
            let source = tempfile::tempdir().unwrap();
            fs::create_dir(source.path().join("elsewhere")).unwrap();
            fs::write(source.path().join("elsewhere/config.json"), "{}").unwrap();
            if name != "model.onnx" {
                fs::write(source.path().join("model.onnx"), "x").unwrap();
            }
            let target = if name == "1_Pooling" { "elsewhere" } else { "/etc/passwd" };
            symlink(target, source.path().join(name)).unwrap();
            let refusal = stage(source.path()).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Contract, "{name}");
            assert!(refusal.message.contains(name), "{refusal}");
        }
    }

    #[test]
    fn a_missing_directory_and_a_directory_without_a_model_are_told_apart() {
        let empty = tempfile::tempdir().unwrap();
        let refusal = stage(empty.path()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Contract);
        let refusal = stage(&empty.path().join("none")).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::NotFound);
        assert!(refusal.message.contains("none"), "{refusal}");
    }
}
