//! A running supervisor.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Output},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    admin::{self, Committed, Refusal, Status},
    client::Client,
    home::Home,
    launch::{self, Builder, Exited},
    processes::{self, Process, Signal},
    wait::eventually,
};

/// Another process may listen on the port and never answer.
const PROBE_MAX: Duration = Duration::from_secs(2);
const READY_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(40);
const LOG_LINES: usize = 100;

/// A running supervisor. End it with [`Server::stop`], [`Server::terminate`] or [`Server::kill`],
/// which check that it leaves nothing behind. If the test fails, drop kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    exit: Option<ExitStatus>,
    home: Arc<Home>,
    address: SocketAddr,
    log: PathBuf,
    seen: Mutex<BTreeSet<Process>>,
}

impl Server {
    /// Returns a builder for a supervisor in new directories.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(child: Child, home: Arc<Home>, address: SocketAddr, log: PathBuf) -> Self {
        let pid = i32::try_from(child.id()).unwrap();
        let seen = Process::find(pid).into_iter().collect();
        Self { child, exit: None, home, address, log, seen: Mutex::new(seen) }
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// Returns how it exited, if it did.
    ///
    /// # Panics
    /// Panics if it neither exits nor becomes ready.
    pub async fn ready(&mut self) -> Result<(), Exited> {
        let start = Instant::now();
        while start.elapsed() < READY_MAX {
            if let Some(exited) = self.exited() {
                return Err(exited);
            }
            // Another server may have taken the port, so check the admin socket as well.
            if self.answers_ready().await && self.try_status().await.is_some() {
                self.note_processes();
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("onnxd was not ready within {READY_MAX:?}");
    }

    /// Returns whether `/v2/health/ready` answers 200.
    pub async fn answers_ready(&self) -> bool {
        let pending = async {
            let mut client = Client::connect(self.address).await.ok()?;
            client.get("/v2/health/ready").await.ok()
        };
        let answer = tokio::time::timeout(PROBE_MAX, pending).await;
        answer.is_ok_and(|response| response.is_some_and(|response| response.status == 200))
    }

    fn exited(&mut self) -> Option<Exited> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().unwrap();
        }
        Some(Exited { code: self.exit?.code(), stderr: self.stderr() })
    }

    /// Returns its HTTP address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens a connection.
    ///
    /// # Panics
    /// Panics if the connection is refused.
    pub async fn client(&self) -> Client {
        Client::connect(self.address).await.unwrap()
    }

    /// Returns its directories.
    pub fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// Returns its pid.
    ///
    /// # Panics
    /// Panics if the pid does not fit an i32.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Returns its standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Runs a command with its admin socket.
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        let socket = self.home.admin_socket();
        let socket = ["--admin-socket", socket.to_str().unwrap()];
        launch::run(&self.home, &[arguments, &socket].concat()).await
    }

    /// Runs a command that may take this long with its admin socket.
    pub async fn cli_within(&self, arguments: &[&str], time: Duration) -> Output {
        let socket = self.home.admin_socket();
        let socket = ["--admin-socket", socket.to_str().unwrap()];
        launch::run_within(&self.home, &[arguments, &socket].concat(), time).await
    }

    /// Returns `onnxd status`.
    ///
    /// # Panics
    /// Panics if the command fails.
    pub async fn status(&self) -> Status {
        let output = self.cli(&["status", "--json"]).await;
        let status = admin::verdict(&output);
        self.note_processes();
        status.unwrap_or_else(|refusal| panic!("status: {refusal:?}"))
    }

    async fn try_status(&self) -> Option<Status> {
        let output = self.cli(&["status", "--json"]).await;
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Returns its workers' pids.
    pub async fn worker_pids(&self) -> Vec<i32> {
        self.status().await.pids()
    }

    /// Runs `onnxd update MODEL [--from DIR]`.
    ///
    /// # Errors
    /// Fails with the refusal.
    ///
    /// # Panics
    /// Panics if the output is malformed.
    pub async fn update(&self, model: &str, from: Option<&Path>) -> Result<Committed, Refusal> {
        self.update_with(model, from, &[]).await
    }

    /// Runs `onnxd update` with more arguments, such as `--load lazy`.
    ///
    /// # Errors
    /// Fails with the refusal.
    ///
    /// # Panics
    /// Panics if the output is malformed.
    pub async fn update_with(
        &self,
        model: &str,
        from: Option<&Path>,
        more: &[&str],
    ) -> Result<Committed, Refusal> {
        let mut arguments = vec!["update", model, "--json"];
        if let Some(from) = from {
            arguments.extend(["--from", from.to_str().unwrap()]);
        }
        admin::verdict(&self.cli(&[&arguments, more].concat()).await)
    }

    /// Runs `onnxd rollback MODEL [--to GENERATION]`.
    ///
    /// # Errors
    /// Fails with the refusal.
    ///
    /// # Panics
    /// Panics if the output is malformed.
    pub async fn rollback(&self, model: &str, to: Option<u64>) -> Result<Committed, Refusal> {
        let to = to.map(|generation| generation.to_string());
        let mut arguments = vec!["rollback", model, "--json"];
        if let Some(to) = &to {
            arguments.extend(["--to", to]);
        }
        admin::verdict(&self.cli(&arguments).await)
    }

    /// Runs `onnxd unload MODEL`.
    ///
    /// # Errors
    /// Fails with the refusal.
    ///
    /// # Panics
    /// Panics if the output is malformed.
    pub async fn unload(&self, model: &str) -> Result<admin::Unloaded, Refusal> {
        admin::verdict(&self.cli(&["unload", model, "--json"]).await)
    }

    /// Waits for a model's generation to exceed `above` and returns the model's status.
    pub async fn generation_above(&self, model: &str, above: u64) -> admin::ModelStatus {
        eventually(&format!("a generation above {above}"), READY_MAX, async || {
            let status = self.status().await;
            Some(status.model(model).clone()).filter(|model| model.generation > above)
        })
        .await
    }

    /// Waits until a check of a model's source has failed, and returns why.
    pub async fn source_error(&self, model: &str) -> String {
        eventually("a failed check", READY_MAX, async || {
            self.status().await.model(model).source_state.clone()?.error
        })
        .await
    }

    /// Waits for `count` more checks of a model's source.
    ///
    /// # Panics
    /// Panics if nothing is known of the source.
    pub async fn source_checks(&self, model: &str, count: u64) {
        let seen = async || self.status().await.model(model).source_state.clone().unwrap().checks;
        let before = seen().await;
        eventually("checks", READY_MAX, async || (seen().await >= before + count).then_some(()))
            .await;
    }

    /// Waits until all workers are running and have loaded the committed generations.
    pub async fn settled(&self) -> Status {
        eventually("all workers have loaded the committed generations", READY_MAX, async || {
            let status = self.status().await;
            let current = |worker: &admin::WorkerStatus| {
                worker.pid.is_some()
                    && status
                        .models
                        .iter()
                        .all(|model| worker.generations.get(&model.name) == Some(&model.generation))
            };
            status.workers.iter().all(current).then_some(status)
        })
        .await
    }

    /// Waits until all workers are running, whatever they have loaded.
    pub async fn fully_staffed(&self) -> Status {
        eventually("all workers are running", READY_MAX, async || {
            let status = self.status().await;
            status.workers.iter().all(|worker| worker.pid.is_some()).then_some(status)
        })
        .await
    }

    /// Waits for `count` worker restarts in total, then for [`Self::settled`].
    pub async fn restarted(&self, count: u64) -> Status {
        eventually(&format!("{count} restarts"), READY_MAX, async || {
            (self.status().await.restarts() >= count).then_some(())
        })
        .await;
        self.settled().await
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Remembers its processes, to find those left over after it ends.
    fn note_processes(&self) {
        self.seen.lock().unwrap().extend(processes::descendants(self.pid()));
    }

    /// Returns whether it is still running.
    pub fn runs(&mut self) -> bool {
        self.note_processes();
        self.exited().is_none()
    }

    /// Waits for it to exit.
    ///
    /// # Panics
    /// Panics if it does not exit, or leaves anything behind.
    pub async fn wait(&mut self) -> ExitStatus {
        let exit = self.wait_ignoring_staging().await;
        let staged = self.home.staged();
        assert!(staged.is_empty(), "onnxd left behind:\n{}", staged.join("\n"));
        exit
    }

    /// Waits for the exit of a supervisor that may be killed while staging.
    ///
    /// # Panics
    /// Panics if it does not exit, or leaves anything else behind.
    pub async fn wait_ignoring_staging(&mut self) -> ExitStatus {
        let start = Instant::now();
        let exit = loop {
            self.note_processes();
            if self.exited().is_some() {
                break self.exit.unwrap();
            }
            assert!(start.elapsed() < STOP_MAX, "onnxd did not exit within {STOP_MAX:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let left = self.home.leftovers(&self.seen.lock().unwrap());
        assert!(left.is_empty(), "onnxd left behind:\n{}", left.join("\n"));
        exit
    }

    /// Sends SIGTERM and waits for the exit.
    ///
    /// # Panics
    /// Panics if it does not exit, or leaves anything behind.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.note_processes();
        self.signal(Signal::SIGTERM);
        self.wait().await
    }

    /// Sends SIGKILL and waits for the exit.
    ///
    /// # Panics
    /// Panics if it leaves anything behind.
    pub async fn kill(&mut self) {
        self.note_processes();
        self.signal(Signal::SIGKILL);
        self.wait().await;
    }

    /// Stops it as systemd does.
    ///
    /// # Panics
    /// Panics if its exit code is not 0, or it leaves anything behind.
    pub async fn stop(mut self) {
        let exit = self.terminate().await;
        assert_eq!(exit.code(), Some(0), "{exit}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.note_processes();
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        for process in self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            process.signal(Signal::SIGKILL);
        }
        if thread::panicking() {
            let log = self.stderr();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("---- supervisor log\n{}\n----", last.join("\n"));
        }
    }
}
