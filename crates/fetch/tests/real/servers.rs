//! Starts servers on free ports, and kills them.

use std::{
    env,
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

/// A running server.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    /// Starts a program and waits until it listens.
    pub(crate) fn start(command: &mut Command, port: u16, directory: &Path) -> Self {
        let log = std::fs::File::create(directory.join(format!("{port}.log"))).unwrap();
        let errors = log.try_clone().unwrap();
        command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir(directory);
        // Servers are reached directly, whatever proxy this machine uses.
        command.env("NO_PROXY", "*").env("no_proxy", "*");
        // Some start others, which end with the group.
        let child = command.process_group(0).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = child.try_wait().unwrap();
            let is_late = started.elapsed() > Duration::from_secs(120);
            if ended.is_some() || is_late {
                let log = std::fs::read_to_string(directory.join(format!("{port}.log"))).unwrap();
                panic!("{command:?} did not start: {log}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Self { child, port }
    }

    /// Returns a URL below the server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        // SeaweedFS ignores SIGTERM for a while.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
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
