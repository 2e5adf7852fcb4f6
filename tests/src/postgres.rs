//! A PostgreSQL server of a test's own, with pgvector. Its programs are in the directory that
//! `ONNXD_TEST_POSTGRES` names; `cargo xtask test-postgres` installs them. The tests of
//! `crates/postgres` include this file, so it needs nothing of this crate.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, chown},
};
use tempfile::TempDir;

/// PostgreSQL refuses to run as root; nobody's user and group.
const NOBODY: u32 = 65534;
/// The password of the user `owner`, with a character that a URL must escape.
const PASSWORD: &str = "a'secret-of-the-test";
/// The password in a URL.
const ESCAPED: &str = "a%27secret-of-the-test";
/// What both forms of the password contain. Tests look for it where it must not be.
pub const SECRET: &str = "secret-of-the-test";

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
        let database = Self { folder, port: free_port() };
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

    /// Stops the server: `immediate` is like a loss of power, and `fast` ends sessions.
    ///
    /// # Panics
    /// Panics if it is not running.
    pub fn stop(&self, mode: &str) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", mode, "-w", "stop"]);
    }

    /// Sends a signal to the process that accepts connections.
    ///
    /// # Panics
    /// Panics if it is not running.
    pub fn signal(&self, signal: Signal) {
        let file = fs::read_to_string(self.pid_file()).expect("the server runs");
        let pid = file.lines().next().and_then(|line| line.parse().ok()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("the server runs");
    }

    /// Returns the address at which the server listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Returns the URL for `--search`.
    pub fn url(&self) -> String {
        format!("postgres://owner:{ESCAPED}@{}/postgres", self.address())
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

    fn pid_file(&self) -> PathBuf {
        Path::new(&self.data()).join("postmaster.pid")
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
        if self.pid_file().exists() {
            let stop = ["-D", &self.data(), "-m", "immediate", "-w", "stop"];
            let _ = self.command("pg_ctl").args(stop).status();
        }
    }
}

/// Returns a free port. It is outside the kernel's ephemeral range and different for each call, so that
/// it stays free while the server is stopped.
fn free_port() -> u16 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id().wrapping_mul(131);
    let candidate = || {
        let number = own.wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(10_000 + number % 10_000).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
    };
    std::iter::repeat_with(candidate).take(1000).flatten().next().expect("a free port")
}
