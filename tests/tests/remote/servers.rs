//! Starts servers on free ports, stops them and starts them again.

use std::{
    env,
    fs::{self, File},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Directory of the programs that `cargo xtask test-sources` installed.
const PROGRAMS: &str = "ONNXD_TEST_SERVERS";
/// Ports that are tried. SeaweedFS also uses those 10,000 above.
const PORTS: std::ops::Range<u16> = 21_000..29_000;

/// The user of every server that asks for one.
pub(crate) const USER: &str = "user";
/// The password of that user, and a token.
pub(crate) const PASSWORD: &str = "correct-horse-battery";
/// A password that no server accepts.
pub(crate) const WRONG_PASSWORD: &str = "wrong-horse-battery";
/// The password as bcrypt, with the lowest cost.
pub(crate) const PASSWORD_HASH: &str =
    "$2b$04$tC7HxcbUS5hBl5zU/axfAOawT/YYq6.ho6Ep6oqLRLdUYLS/nlc0S";

/// A server, which is killed when it is dropped.
pub(crate) struct Server {
    command: Command,
    child: Option<Child>,
    pub(crate) port: u16,
    log: PathBuf,
}

impl Server {
    /// Starts a program and waits until it listens.
    pub(crate) fn start(mut command: Command, port: u16, directory: &Path) -> Self {
        command.stdin(Stdio::null()).current_dir(directory);
        // Servers are reached directly, whatever proxy this machine uses.
        command.env("NO_PROXY", "*").env("no_proxy", "*");
        // Some start others, which end with the group.
        command.process_group(0);
        let log = directory.join(format!("{port}.log"));
        let mut server = Self { command, child: None, port, log };
        server.start_again();
        server
    }

    /// Starts the program with the same port and files.
    pub(crate) fn start_again(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        self.command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = self.command.spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = child.try_wait().unwrap();
            let is_late = started.elapsed() > Duration::from_secs(120);
            if ended.is_some() || is_late {
                let log = fs::read_to_string(&self.log).unwrap();
                panic!("{:?} did not start: {log}", self.command);
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.child = Some(child);
    }

    /// Kills the program.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let group = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        // SeaweedFS ignores SIGTERM for a while.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = child.wait();
    }

    /// Returns a URL below the server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Returns an installed program.
pub(crate) fn program(name: &str) -> PathBuf {
    let directory = env::var_os(PROGRAMS).unwrap_or_else(|| {
        panic!("{PROGRAMS} is not set; run these tests with `cargo xtask test-sources`")
    });
    Path::new(&directory).join(name)
}

/// Returns a port that is free, like the one 10,000 above.
pub(crate) fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 4000).unwrap();
    loop {
        let port = PORTS.start + spread + NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(PORTS.contains(&port), "no free port");
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
}

/// Waits until something holds, for at most a minute.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "waited too long: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}
