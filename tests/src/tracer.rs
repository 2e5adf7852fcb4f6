//! Makes system calls of a supervisor fail, with strace.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{sys::signal, unistd::Pid};

use crate::{
    eventually,
    processes::{Signal, status},
    server::Server,
};

/// A supervisor with failing system calls. strace detaches when it gets a signal.
#[derive(Debug)]
pub struct Tracer(Child);

impl Tracer {
    /// Makes a system call of each thread fail from now on. `how` follows the call's name in an
    /// `inject` expression of strace(1). Returns `None` if strace is missing or not permitted.
    pub async fn attach(server: &Server, call: &str, how: &str) -> Option<Self> {
        let log = server.home().root().join("strace");
        let child = Command::new("strace")
            .args(["-f", "-q", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:{how}"), "-o"])
            .arg(&log)
            .args(["-p", &server.pid().to_string()])
            .stderr(Stdio::null())
            .spawn();
        let mut tracer = Self(child.ok()?);
        let (traced, own) = (server.pid().to_string(), tracer.0.id().to_string());
        eventually("strace attaches or exits", Duration::from_secs(20), async || {
            let attached = status(&traced, "TracerPid").is_some_and(|tracer| tracer == own);
            (attached || tracer.0.try_wait().is_ok_and(|ended| ended.is_some())).then_some(attached)
        })
        .await
        .then_some(tracer)
    }

    /// Detaches.
    ///
    /// # Panics
    /// Panics if strace does not exit.
    pub fn detach(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        signal::kill(pid, Signal::SIGINT).unwrap();
        self.0.wait().unwrap();
    }
}
