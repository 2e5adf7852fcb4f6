//! A PostgreSQL server of a test's own, with pgvector. Its programs are in the directory that
//! `ONNXD_TEST_POSTGRES` names; `cargo xtask test-postgres` installs them.

use std::{
    env, fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Stdio},
};

use nix::unistd::{Gid, Uid, chown};
use tempfile::TempDir;

use crate::launch::free_address;

/// PostgreSQL refuses to run as root; nobody's user and group.
const NOBODY: u32 = 65534;
/// The password of the only user. Tests look for it where it must not be.
pub const PASSWORD: &str = "a-secret-of-the-test";

/// A server with its own data directory, stopped when dropped.
#[derive(Debug)]
pub struct Database {
    folder: TempDir,
    port: u16,
}

impl Database {
    /// Creates and starts a server.
    ///
    /// # Panics
    /// Panics if one of its programs fails.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        if Uid::effective().is_root() {
            let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            chown(folder.path(), Some(user), Some(group)).expect("root may give files away");
        }
        let database = Self { folder, port: free_address().port() };
        let password = database.folder.path().join("password");
        fs::write(&password, PASSWORD).expect("the directory is writable");
        let readable = fs::Permissions::from_mode(0o644);
        fs::set_permissions(&password, readable).expect("the file is ours");
        let password = format!("--pwfile={}", password.display());
        let with = ["-U", "owner", "-E", "UTF8", "--locale=C", "-A", "scram-sha-256", "-N"];
        database.run("initdb", &[&with[..], &[&password, "-D", &database.data()]].concat());
        database.resume();
        database
    }

    /// Starts the server that was stopped.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub fn resume(&self) {
        let options = format!(
            "-p {} -k '' -c listen_addresses=127.0.0.1 -c max_connections=40 -c shared_buffers=64MB",
            self.port
        );
        let log = self.folder.path().join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-o", &options, "-l", &log, "-w", "start"]);
    }

    /// Stops the server as a loss of power would.
    ///
    /// # Panics
    /// Panics if it is not running.
    pub fn crash(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }

    /// Returns the URL for `--search`.
    pub fn url(&self) -> String {
        format!("postgres://owner:{PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs SQL as another program, and returns the rows, with `|` between columns.
    ///
    /// # Panics
    /// Panics if the statement fails.
    pub fn sql(&self, statement: &str) -> String {
        let mut command = self.command("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement]);
        let port = self.port.to_string();
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "owner", "-d", "postgres"]);
        // Arguments are visible to other processes.
        let output = command.env("PGPASSWORD", PASSWORD).stdout(Stdio::piped()).output();
        let output = output.expect("psql starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statement}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = self.command(program).args(arguments).status().expect("it starts");
        assert!(status.success(), "{program}");
    }

    fn command(&self, program: &str) -> Command {
        let programs = env::var_os("ONNXD_TEST_POSTGRES");
        let programs = PathBuf::from(programs.expect("ONNXD_TEST_POSTGRES names a directory"));
        let mut command = Command::new(programs.join(program));
        if Uid::effective().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.current_dir("/").stdout(Stdio::null()).stdin(Stdio::null());
        command
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let stop = ["-D", &self.data(), "-m", "immediate", "-w", "stop"];
        // It may have been stopped.
        let _ = self.command("pg_ctl").args(stop).stderr(Stdio::null()).status();
    }
}
