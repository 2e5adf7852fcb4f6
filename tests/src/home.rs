//! The directories of a supervisor, and the check that it leaves nothing behind in them. A home may
//! outlive its supervisor, so that another one can start with the same state.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    processes::{self, Process},
    wait::soon,
};

/// Workers exit within this time after their supervisor, however it ended.
const ORPHAN_EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// A temporary directory with a state directory, the admin socket, and the `HOME` and `TMPDIR` of a
/// supervisor and its workers.
#[derive(Debug)]
pub struct Home {
    root: TempDir,
    shared_memory: BTreeSet<String>,
}

impl Home {
    /// Creates the directories.
    ///
    /// # Panics
    /// Panics on an I/O error.
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("e2e-").tempdir().unwrap();
        for name in ["run", "tmp", "home", "models"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        Self { root, shared_memory: shared_memory() }
    }

    /// Returns the parent of all other directories.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// `--state-dir`.
    pub fn state(&self) -> PathBuf {
        self.root().join("state")
    }

    /// `--admin-socket`.
    pub fn admin_socket(&self) -> PathBuf {
        self.root().join("run/admin.sock")
    }

    /// `TMPDIR`.
    pub fn tmp(&self) -> PathBuf {
        self.root().join("tmp")
    }

    /// `HOME`.
    pub fn user(&self) -> PathBuf {
        self.root().join("home")
    }

    /// Returns the directory for model directories that tests modify.
    pub fn models(&self) -> PathBuf {
        self.root().join("models")
    }

    /// Returns the entries of the state directory's `staging/`.
    pub fn staged(&self) -> Vec<String> {
        entries(&self.state().join("staging"))
    }

    /// Describes everything else that an ended supervisor left behind, one line each. `seen` are
    /// processes that belonged to it.
    pub fn leftovers(&self, seen: &BTreeSet<Process>) -> Vec<String> {
        let orphans = || {
            let mut orphans: BTreeSet<Process> = seen.iter().copied().collect();
            orphans.extend(processes::mentioning(self.root()));
            orphans.retain(|process| process.runs());
            orphans
        };
        let mut left = Vec::new();
        if !soon(ORPHAN_EXIT_TIMEOUT, || orphans().is_empty()) {
            let name = |process: Process| {
                format!("process {}: {}", process.pid, processes::command_line(process.pid))
            };
            left.extend(orphans().into_iter().map(name));
        }
        if self.admin_socket().symlink_metadata().is_ok() {
            left.push(format!("the admin socket {}", self.admin_socket().display()));
        }
        left.extend([self.tmp(), self.user()].iter().flat_map(|directory| entries(directory)));
        let shared = shared_memory();
        left.extend(shared.difference(&self.shared_memory).map(|name| format!("/dev/shm/{name}")));
        left
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

fn shared_memory() -> BTreeSet<String> {
    let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("onnxd"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn leftovers_are_found() {
        let home = Home::new();
        assert_eq!(home.leftovers(&BTreeSet::new()), [""; 0]);

        fs::write(home.tmp().join("onnxd.tmp"), "").unwrap();
        fs::write(home.user().join(".onnxruntime"), "").unwrap();
        fs::write(home.admin_socket(), "").unwrap();
        fs::create_dir_all(home.state().join("staging/x")).unwrap();
        let sleep = |variable: &str| {
            let mut command = Command::new("sleep");
            command.arg("60").env("X", variable).stdout(Stdio::null()).spawn().unwrap()
        };
        let mut children = [sleep(home.root().to_str().unwrap()), sleep("")];
        let seen = Process::find(i32::try_from(children[1].id()).unwrap());
        let left = home.leftovers(&seen.into_iter().collect()).join("\n");
        for child in &mut children {
            assert!(left.contains(&format!("process {}", child.id())), "{left}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        for name in ["onnxd.tmp", ".onnxruntime", "admin.sock"] {
            assert!(left.contains(name), "{left}");
        }
        assert_eq!(home.staged().len(), 1);
    }
}
