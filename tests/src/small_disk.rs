//! A small disk that tests fill.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

const PAGE_BYTES: u64 = 4096;

/// A small mounted disk, unmounted on drop.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts a disk of this size.
    ///
    /// # Errors
    /// This machine does not let tests do so; for the message of a skipped test.
    pub fn mount(path: &Path, bytes: u64) -> Result<Self, String> {
        fs::create_dir_all(path).map_err(|error| error.to_string())?;
        let size = format!("size={bytes}");
        let arguments = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        match Command::new("mount").args(arguments).arg(path).output() {
            Ok(output) if output.status.success() => Ok(Self(path.to_owned())),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Fills the disk except for this many pages.
    ///
    /// # Panics
    /// Panics if the file that fills it cannot be changed.
    pub fn fill_but(&self, pages: u64) {
        let mut file = File::options().append(true).create(true).open(self.ballast()).unwrap();
        let page = vec![0; 4096];
        while file.write_all(&page).is_ok() {}
        let length = file.metadata().unwrap().len();
        let length = length.next_multiple_of(PAGE_BYTES).saturating_sub(pages * PAGE_BYTES);
        file.set_len(length).unwrap();
    }

    /// Frees what [`SmallDisk::fill_but`] took.
    ///
    /// # Panics
    /// Panics if the disk was not filled.
    pub fn empty(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A killed supervisor may still use the disk, so unmount lazily.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
