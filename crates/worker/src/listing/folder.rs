//! Lists and opens the files of a source's directory. Two layers stop links that lead outside: the
//! sandbox here, and the supervisor, which opens every file again.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use onnxd_proto::domain::{MODEL_SUFFIX, Refusal, RefusalKind};

use super::SETTINGS_BYTES_MAX;

/// Maximum folder depth, reached by a module's own `onnx/`.
const DEPTH_MAX: usize = 2;
/// Maximum entries of all folders together.
pub(super) const ENTRIES_MAX: usize = 10_000;

/// A source's directory and its files.
pub(super) struct Folder {
    dir: PathBuf,
    files: Vec<String>,
    models: Vec<String>,
}

impl Folder {
    /// Lists the files.
    ///
    /// # Errors
    /// The directory cannot be read, or has too many entries.
    pub(super) fn read(dir: &Path) -> Result<Self, Refusal> {
        let mut found = Self { dir: dir.to_owned(), files: Vec::new(), models: Vec::new() };
        let mut entries = 0;
        found.add("", DEPTH_MAX, &mut entries)?;
        // Sort by depth, top level first.
        found.files.sort_by_key(|file| (file.matches('/').count(), file.clone()));
        let models = found.files.iter().filter(|file| file.ends_with(MODEL_SUFFIX));
        found.models = models.cloned().collect();
        Ok(found)
    }

    /// Returns the model files, top level first.
    pub(super) fn models(&self) -> &[String] {
        &self.models
    }

    /// Returns all files of this name, top level first.
    pub(super) fn files_named(&self, name: &str) -> Vec<String> {
        let is_named = |file: &&String| file.rsplit('/').next() == Some(name);
        self.files.iter().filter(is_named).cloned().collect()
    }

    fn add(&mut self, at: &str, depth: usize, entries: &mut usize) -> Result<(), Refusal> {
        let refuse = |error: &dyn std::fmt::Display| {
            let at = if at.is_empty() { "the directory" } else { at };
            RefusalKind::Internal.because(format!("{at}: {error}"))
        };
        for entry in fs::read_dir(self.dir.join(at)).map_err(|error| refuse(&error))? {
            let entry = entry.map_err(|error| refuse(&error))?;
            *entries += 1;
            if *entries > ENTRIES_MAX {
                let message = format!(
                    "more than {ENTRIES_MAX} files; serve a directory that holds one model"
                );
                return Err(RefusalKind::Contract.because(message));
            }
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            let path = if at.is_empty() { name } else { format!("{at}/{name}") };
            // Follow links here; opening a file checks whether its link is allowed.
            let is_folder = fs::metadata(entry.path()).is_ok_and(|found| found.is_dir());
            if !is_folder {
                self.files.push(path);
            } else if depth > 0 {
                // Skip folders that cannot be read: they are not the model's.
                match self.add(&path, depth - 1, entries) {
                    Err(refusal) if refusal.kind == RefusalKind::Contract => return Err(refusal),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Opens a file of the source.
    ///
    /// # Errors
    /// It is missing, not a regular file, or outside the source.
    pub(super) fn open(&self, file: &str) -> Result<File, Refusal> {
        let refuse = |message: String| RefusalKind::Contract.because(message);
        // Opening a FIFO would block otherwise.
        let flags = nix::libc::O_NONBLOCK;
        let opened = File::options().read(true).custom_flags(flags).open(self.dir.join(file));
        let opened = opened.map_err(|error| refuse(self.explain(file, &error)))?;
        match opened.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(opened),
            Ok(_) => Err(refuse(format!("{file}: not a regular file"))),
            Err(error) => Err(refuse(format!("{file}: {error}"))),
        }
    }

    /// Reads a settings file at the top level; `None` if it is missing or too long.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn read_text(&self, file: &str) -> Result<Option<String>, Refusal> {
        if !self.files.iter().any(|known| known == file) {
            return Ok(None);
        }
        let (mut text, opened) = (String::new(), self.open(file)?);
        let read = opened.take(SETTINGS_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| RefusalKind::Contract.because(format!("{file}: {error}")))?;
        Ok((text.len() as u64 <= SETTINGS_BYTES_MAX).then_some(text))
    }

    /// Explains why a file cannot be opened, and names the first link on its path.
    fn explain(&self, file: &str, error: &io::Error) -> String {
        let ends = file.match_indices('/').map(|(at, _)| at).chain([file.len()]);
        let link = ends.map(|end| &file[..end]).find_map(|part| {
            Some((part, fs::read_link(self.dir.join(part)).ok()?.display().to_string()))
        });
        match (link, error.kind()) {
            (Some((part, target)), io::ErrorKind::PermissionDenied) => {
                format!("{part} is a link to {target}, which is outside the source")
            }
            (Some((part, target)), io::ErrorKind::NotFound) => {
                format!("{part} is a link to {target}, which is missing; download it again")
            }
            (None, io::ErrorKind::NotFound) => format!("{file} is missing"),
            _ => format!("{file}: {error}"),
        }
    }
}
