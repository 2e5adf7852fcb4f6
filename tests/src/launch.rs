//! Starts a supervisor the way users do.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};

use crate::{fixtures, home::Home, server::Server};

const COMMAND_MAX: Duration = Duration::from_secs(150);
const START_ATTEMPTS: usize = 5;

/// The configuration of a supervisor.
#[derive(Clone, Debug)]
pub struct Builder {
    home: Arc<Home>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// `None`: the server decides.
    workers: Option<usize>,
    onnxruntime: Option<PathBuf>,
    worker_binary: Option<PathBuf>,
    state: Option<PathBuf>,
    user: Option<u32>,
    descriptors: Option<u32>,
    executable: PathBuf,
    /// Sockets with their names in their units.
    activated: Vec<(String, Arc<OwnedFd>)>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            home: Arc::new(Home::new()),
            arguments: Vec::new(),
            environment: Vec::new(),
            workers: Some(2),
            onnxruntime: None,
            worker_binary: None,
            state: None,
            user: None,
            descriptors: None,
            executable: fixtures::onnxd(),
            activated: Vec::new(),
        }
    }

    /// Serves a model directory.
    #[must_use]
    pub fn model(self, name: &str, directory: &Path) -> Self {
        self.argument("--model").argument(&format!("{name}={}", directory.display()))
    }

    /// Adds an argument of `onnxd serve`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Lets tests stop workers that the supervisor then does not replace.
    #[must_use]
    pub fn tolerates_stopped_workers(self) -> Self {
        self.argument("--stopped-grace=600")
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets the server decide how many workers it needs.
    #[must_use]
    pub fn default_workers(mut self) -> Self {
        self.workers = None;
        self
    }

    /// Sets the number of workers; the default is 2.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Uses another ONNX Runtime library.
    #[must_use]
    pub fn onnxruntime(mut self, library: &Path) -> Self {
        self.onnxruntime = Some(library.to_path_buf());
        self
    }

    /// Uses another worker executable.
    #[must_use]
    pub fn worker_binary(mut self, executable: &Path) -> Self {
        self.worker_binary = Some(executable.to_path_buf());
        self
    }

    /// Uses existing directories, with the state that an earlier supervisor left there.
    #[must_use]
    pub fn home(mut self, home: &Arc<Home>) -> Self {
        self.home = Arc::clone(home);
        self
    }

    /// Returns the directories.
    pub fn directories(&self) -> Arc<Home> {
        Arc::clone(&self.home)
    }

    /// Runs as this user, which then owns the directories. Requires root.
    ///
    /// # Panics
    /// Panics if the owner cannot be changed.
    #[must_use]
    pub fn user(mut self, id: u32) -> Self {
        let root = self.home.root().to_owned();
        for path in [root.clone(), root.join("run"), self.home.tmp(), self.home.user()] {
            std::os::unix::fs::chown(path, Some(id), Some(id)).unwrap();
        }
        self.user = Some(id);
        self
    }

    /// Uses the state directory of another home. The other directories remain separate.
    #[must_use]
    pub fn state_of(mut self, home: &Arc<Home>) -> Self {
        self.state = Some(home.state());
        self
    }

    /// Limits the number of descriptors. The supervisor cannot raise the limit.
    #[must_use]
    pub fn descriptors(mut self, descriptors: u32) -> Self {
        self.descriptors = Some(descriptors);
        self
    }

    /// Runs this executable, which the test may replace.
    #[must_use]
    pub fn executable(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.executable);
        self
    }

    /// Passes a listening socket as systemd does.
    ///
    /// # Panics
    /// Panics if no descriptors are left.
    #[must_use]
    pub fn activated(self, socket: &TcpListener) -> Self {
        self.activated_as("", socket.try_clone().unwrap())
    }

    /// Passes a listening socket with a `FileDescriptorName=`.
    #[must_use]
    pub fn activated_as(mut self, name: &str, socket: impl Into<OwnedFd>) -> Self {
        self.activated.push((name.to_owned(), Arc::new(socket.into())));
        self
    }

    /// Starts the supervisor and waits until it is ready.
    ///
    /// # Panics
    /// Panics if it exits early or does not become ready.
    pub async fn start(self) -> Server {
        match self.try_start().await {
            Ok(server) => server,
            Err(exited) => panic!("{}", exited.show("onnxd serve")),
        }
    }

    /// Starts the supervisor and waits until it is ready. Retries on another port if the chosen one
    /// is taken.
    ///
    /// # Errors
    /// Returns how it exited.
    ///
    /// # Panics
    /// Panics if it neither exits nor becomes ready.
    pub async fn try_start(self) -> Result<Server, Exited> {
        let mut attempt = 1;
        loop {
            let mut server = self.clone().spawn();
            match server.ready().await {
                Ok(()) => return Ok(server),
                Err(exited) if exited.port_was_taken() && attempt < START_ATTEMPTS => attempt += 1,
                Err(exited) => return Err(exited),
            }
        }
    }

    /// Starts the supervisor without waiting.
    ///
    /// # Panics
    /// Panics if the executable cannot be started.
    pub fn spawn(self) -> Server {
        self.spawn_at(free_address())
    }

    /// Starts the supervisor at an address without waiting.
    ///
    /// # Panics
    /// Panics if the executable cannot be started.
    pub fn spawn_at(self, address: SocketAddr) -> Server {
        let log = self.home.root().join("stderr");
        let mut command = self.command();
        command.args(["--listen", &address.to_string()]).stderr(File::create(&log).unwrap());
        Server::new(command.spawn().unwrap(), self.home, address, log)
    }

    fn command(&self) -> Command {
        let home = &self.home;
        let library = self.onnxruntime.clone().unwrap_or_else(fixtures::onnxruntime);
        // Only the process itself knows the pid for LISTEN_PID.
        let shell = "export LISTEN_PID=$$; exec \"$0\" \"$@\"";
        let mut command = match (&self.activated[..], self.descriptors) {
            (sockets @ [_, ..], _) => {
                let mut command = environment(Command::new("sh"), home);
                let names: Vec<&str> = sockets.iter().map(|(name, _)| name.as_str()).collect();
                let mapping = |((_, socket), child_fd): (&(_, Arc<OwnedFd>), _)| FdMapping {
                    parent_fd: socket.try_clone().unwrap(),
                    child_fd,
                };
                command.fd_mappings(sockets.iter().zip(3..).map(mapping).collect()).unwrap();
                command.env("LISTEN_FDS", names.len().to_string());
                command.env("LISTEN_FDNAMES", names.join(":"));
                command.args(["-c", shell]).arg(&self.executable);
                command
            }
            // prlimit execs the supervisor, so the pid stays the same.
            ([], Some(limit)) => {
                let mut command = environment(Command::new("prlimit"), home);
                command.arg(format!("--nofile={limit}:{limit}")).arg(&self.executable);
                command
            }
            ([], None) => environment(Command::new(&self.executable), home),
        };
        command
            .arg("serve")
            .args(&self.arguments)
            .arg("--admin-socket")
            .arg(home.admin_socket())
            .arg("--state-dir")
            .arg(self.state.clone().unwrap_or_else(|| home.state()))
            .arg("--onnxruntime")
            .arg(library)
            .arg("--worker-binary")
            .arg(self.worker_binary.clone().unwrap_or_else(fixtures::onnxd_worker))
            .args(self.workers.map(|workers| format!("--workers={workers}")))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(id) = self.user {
            command.uid(id).gid(id);
        }
        command
    }
}

/// Returns the executable with a clean environment.
fn onnxd(home: &Home) -> Command {
    environment(Command::new(fixtures::onnxd()), home)
}

fn environment(mut command: Command, home: &Home) -> Command {
    command.env_clear().env("HOME", home.user()).env("TMPDIR", home.tmp());
    for name in ["PATH", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Runs an `onnxd` command to its end.
///
/// # Panics
/// Panics if it does not end within a generous time limit.
pub async fn run(home: &Home, arguments: &[&str]) -> Output {
    run_within(home, arguments, COMMAND_MAX).await
}

/// Runs an `onnxd` command to its end.
///
/// # Panics
/// Panics if it does not end within this time.
pub async fn run_within(home: &Home, arguments: &[&str], time: Duration) -> Output {
    let mut command = tokio::process::Command::from(onnxd(home));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(time, command.output()).await;
    output.unwrap_or_else(|_| panic!("onnxd {arguments:?} did not exit")).unwrap()
}

/// Returns a free address. Its port is outside the kernel's ephemeral range and different for each
/// call, so that it stays free until it is used.
///
/// # Panics
/// Panics if all ports are taken.
pub fn free_address() -> SocketAddr {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id().wrapping_mul(131);
    let candidate = || {
        let number = own.wrapping_add(CALLS.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(20_000 + number % 12_000).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        listener.and_then(|listener| listener.local_addr()).ok()
    };
    std::iter::repeat_with(candidate).take(1000).flatten().next().unwrap()
}

/// A supervisor that has exited.
#[derive(Clone, Debug)]
pub struct Exited {
    /// Exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// Its standard error.
    pub stderr: String,
}

impl Exited {
    /// Describes the exit, for messages.
    pub fn show(&self, what: &str) -> String {
        format!("{what} exited with code {:?}:\n{}", self.code, self.stderr)
    }

    fn port_was_taken(&self) -> bool {
        let text = self.stderr.to_ascii_lowercase();
        text.contains("address already in use") || text.contains("addrinuse")
    }
}
