//! The working directory. Opens every path part by part and follows no symlink, so that nothing
//! outside is read or written, whatever a source or an earlier download put there.

use std::{fs::File, io, path::Path};

use onnxd_proto::domain::is_inside;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

pub(crate) use onnxd_proto::domain::fetch::OWN_FOLDER as OWN;

/// Bytes that stay free on the disk.
pub(crate) const SPARE_BYTES: u64 = 64 << 20;

const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o700);

/// A directory to download into.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Opens a directory.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens a regular file to read. `None` if it does not exist.
    pub(crate) fn read(&self, path: &str) -> io::Result<Option<File>> {
        // Without O_NONBLOCK, opening a FIFO would wait.
        match self.open_file(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(error) if is_absent(&error) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Creates a file or opens it to append, with its folders.
    pub(crate) fn append(&self, path: &str) -> io::Result<File> {
        self.make_folders(path)?;
        self.open_file(path, OFlags::RDWR | OFlags::CREATE | OFlags::APPEND)
    }

    /// Replaces a small file.
    pub(crate) fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let new = format!("{path}.new");
        self.remove(&new)?;
        io::Write::write_all(&mut self.append(&new)?, bytes)?;
        self.rename(&new, path)
    }

    /// Renames a file and creates the folders of its new path.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.make_folders(to)?;
        let ((from_folder, from_name), (to_folder, to_name)) =
            (self.parent(from)?, self.parent(to)?);
        match rustix::fs::renameat(from_folder, from_name, &to_folder, to_name) {
            // The first version of Landlock allows no rename to another folder.
            Err(Errno::XDEV) => {
                let beside = format!("{to}.onnxd-fetch");
                self.remove(&beside)?;
                let mut source = self.open_file(from, OFlags::RDONLY)?;
                io::copy(&mut source, &mut self.append(&beside)?)?;
                let (_, beside) = self.parent(&beside)?;
                rustix::fs::renameat(&to_folder, beside, &to_folder, to_name)?;
                self.remove(from)
            }
            renamed => Ok(renamed?),
        }
    }

    /// Removes a file, if it exists.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        let removed = self
            .parent(path)
            .and_then(|(folder, name)| Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?));
        match removed {
            Err(error) if is_absent(&error) => Ok(()),
            removed => removed,
        }
    }

    /// Removes the folders of a path that are empty.
    pub(crate) fn remove_empty_folders(&self, path: &str) {
        for (end, _) in path.rmatch_indices('/') {
            let Ok((folder, name)) = self.parent(&path[..end]) else { return };
            if rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR).is_err() {
                return;
            }
        }
    }

    /// Returns the names in the fetcher's own folder.
    pub(crate) fn own_names(&self) -> Vec<String> {
        let Ok(folder) = open_folder(self.0.as_fd(), OWN) else { return Vec::new() };
        let entries = Dir::read_from(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        names.filter(|name| name != "." && name != "..").collect()
    }

    /// Returns the free bytes of the file system.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::fstatvfs(&self.0)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn open_file(&self, path: &str, flags: OFlags) -> io::Result<File> {
        let (folder, name) = self.parent(path)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, FILE_MODE)?;
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(file.into()),
            _ => Err(io::Error::other(format!("{path}: not a regular file"))),
        }
    }

    /// Opens the folder of a path and returns the name in it.
    fn parent<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        if !is_inside(path) {
            return Err(io::Error::other(format!("{path}: not inside the working directory")));
        }
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut folder = self.0.try_clone()?;
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            folder = open_folder(folder.as_fd(), part)?;
        }
        Ok((folder, name))
    }

    fn make_folders(&self, path: &str) -> io::Result<()> {
        for (end, _) in path.match_indices('/') {
            let (folder, name) = self.parent(&path[..end])?;
            match rustix::fs::mkdirat(folder, name, FOLDER_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn open_folder(folder: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read as _, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn no_path_leaves_the_folder() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "x").unwrap();
        symlink(outside.path(), inside.path().join("link")).unwrap();
        symlink(outside.path().join("secret"), inside.path().join("file")).unwrap();
        let folder = Folder::open(inside.path()).unwrap();
        for path in ["link/secret", "file", "../x", "/etc/passwd", "a/../../x", ""] {
            assert!(folder.read(path).is_err(), "{path}");
            assert!(folder.append(path).is_err(), "{path}");
        }
        assert!(folder.remove("link/secret").is_err());
        // A rename replaces the link itself.
        folder.write("file", b"new").unwrap();
        assert_eq!(fs::read(inside.path().join("file")).unwrap(), b"new");
        assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"x");
    }

    #[test]
    fn folders_come_and_go_with_their_files() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::open(directory.path()).unwrap();
        folder.write("a/b/c", b"1").unwrap();
        folder.write("a/d", b"2").unwrap();
        let mut text = String::new();
        folder.read("a/b/c").unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "1");
        folder.remove("a/b/c").unwrap();
        folder.remove("a/b/c").unwrap();
        folder.remove_empty_folders("a/b/c");
        assert!(!directory.path().join("a/b").exists() && directory.path().join("a/d").exists());
        assert!(folder.read("a/b/c").unwrap().is_none());
        assert!(folder.free_bytes().unwrap() > 0);
    }
}
