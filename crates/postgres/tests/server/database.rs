//! A PostgreSQL server of a test's own.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, chown},
};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// PostgreSQL refuses to run as root; nobody's user and group.
const NOBODY: u32 = 65534;
const START_MAX: Duration = Duration::from_secs(60);

/// A server with its own data directory, stopped when dropped.
pub(crate) struct Database {
    folder: TempDir,
    port: u16,
}

impl Database {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        if Uid::effective().is_root() {
            let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let database = Self { folder, port };
        let data = database.data();
        // Connections need a password, as they do where it matters.
        let password = database.folder.path().join("password");
        fs::write(&password, "se'cret").unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
        let pwfile = format!("--pwfile={}", password.display());
        database.run(
            "initdb",
            &[
                "-U",
                "owner",
                "-E",
                "UTF8",
                "--locale=C",
                "-A",
                "scram-sha-256",
                &pwfile,
                "-N",
                "-D",
                &data,
            ],
        );
        database.resume();
        database
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    /// Starts the server that was stopped.
    pub(crate) fn resume(&self) {
        let options = format!(
            "-p {} -k '' -c listen_addresses=127.0.0.1 -c max_connections=40 -c shared_buffers=64MB -c maintenance_work_mem=64MB",
            self.port
        );
        let log = self.folder.path().join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-o", &options, "-l", &log, "-w", "start"]);
    }

    /// Stops the server: `immediate` is like a loss of power, and `fast` ends sessions.
    pub(crate) fn stop(&self, mode: &str) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", mode, "-w", "stop"]);
    }

    /// Stops the process that accepts connections, or continues it.
    pub(crate) fn signal(&self, signal: Signal) {
        let file = fs::read_to_string(Path::new(&self.data()).join("postmaster.pid")).unwrap();
        let pid = file.lines().next().unwrap().parse().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        assert!(self.command(program).args(arguments).status().unwrap().success(), "{program}");
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

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://owner:se%27cret@127.0.0.1:{}/postgres?schema=my%20docs", self.port)
    }

    /// Returns the address with tables that collections may show.
    pub(crate) fn url_with(&self, tables: &str) -> String {
        format!("{}&tables={tables}", self.url())
    }

    /// Returns a session of another program, in which onnxd's views can be named without a schema.
    pub(crate) async fn client(&self) -> Client {
        let start = Instant::now();
        let url = self.url().replace("?schema=my%20docs", "");
        loop {
            match tokio_postgres::connect(&url, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    let path = "SET search_path = \"my docs\", public";
                    client.batch_execute(path).await.unwrap();
                    return client;
                }
                Err(error) => {
                    assert!(start.elapsed() < START_MAX, "{error}");
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if Path::new(&self.data()).join("postmaster.pid").exists() {
            let data = self.data();
            let _ = self.command("pg_ctl").args(["-D", &data, "-m", "immediate", "stop"]).status();
        }
    }
}

/// Runs a future on a new runtime.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
