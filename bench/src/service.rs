//! A service in Python that onnxd is compared with, started with one model directory, and stopped
//! and started again for another. Called by [`crate::picture`] and [`crate::search`].

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use e2e::{
    fixtures,
    launch::free_address,
    processes::{self, Signal},
};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time,
};

/// Maximum time for the service to exit, and to listen after its start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval between checks whether it listens.
const POLL: Duration = Duration::from_millis(10);

/// What runs the service.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub python: PathBuf,
    /// Path within the workspace.
    pub path: &'static str,
    /// The argument after the model directory and the port.
    pub argument: Option<&'static str>,
}

/// The running service.
pub(crate) struct Service {
    script: Script,
    address: SocketAddr,
    child: Child,
}

impl Service {
    /// Starts the service and waits until it listens.
    pub(crate) async fn start(script: Script, model: &Path) -> Result<Self, String> {
        let address = free_address();
        let child = spawn(&script, model, address)?;
        let mut service = Self { script, address, child };
        service.listening().await?;
        Ok(service)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> Result<i32, String> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        pid.ok_or_else(|| "the service has exited early".to_owned())
    }

    /// Stops the service, starts it with another model, and waits until it listens.
    pub(crate) async fn restart(&mut self, model: &Path) -> Result<(), String> {
        self.stop().await?;
        self.child = spawn(&self.script, model, self.address)?;
        self.listening().await
    }

    /// Sends SIGTERM and waits for the exit. uvicorn then answers the requests in flight.
    pub(crate) async fn stop(&mut self) -> Result<(), String> {
        processes::signal(self.pid()?, Signal::SIGTERM);
        let exit = time::timeout(PATIENCE, self.child.wait()).await;
        let exit = exit.map_err(|_| format!("the service did not exit within {PATIENCE:?}"))?;
        exit.map(|_| ()).map_err(|error| format!("service: {error}"))
    }

    async fn listening(&mut self) -> Result<(), String> {
        let listening = async {
            while TcpStream::connect(self.address).await.is_err() {
                if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                    return Err(format!("the service exited early: {status}"));
                }
                time::sleep(POLL).await;
            }
            Ok(())
        };
        let late = |_| format!("the service did not listen within {PATIENCE:?}");
        time::timeout(PATIENCE, listening).await.map_err(late)?
    }
}

fn spawn(script: &Script, model: &Path, address: SocketAddr) -> Result<Child, String> {
    let mut command = Command::new(&script.python);
    command.arg(fixtures::workspace().join(script.path)).arg(model);
    command.arg(address.port().to_string()).args(script.argument);
    // Do not write bytecode: the scripts are in the workspace, which must stay clean.
    command.env("ORT_DISABLE_TELEMETRY", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    let command = command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().map_err(|error| format!("{}: {error}", script.python.display()))
}
