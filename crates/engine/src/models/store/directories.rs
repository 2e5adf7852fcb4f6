//! Lists, seals, syncs and empties directories. Called by the [store](super).

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use onnxd_proto::layout::create_folder;

/// Lists the names in a directory; empty if it is missing.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // What a dangling link leads to may only be away for now.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_symlink() => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().into_string().ok());
    Ok(entries.map(name).collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// Makes every file durable and read-only, then every directory.
pub(super) fn seal(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            seal(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
            fs::set_permissions(&path, Permissions::from_mode(0o444))?;
        }
    }
    // The top directory stays writable until it is moved: a read-only one cannot be.
    sync_directory(folder)
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Empties a directory, or creates it.
pub(super) fn empty(folder: &Path) -> io::Result<()> {
    create_folder(folder)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
    }
    Ok(())
}
