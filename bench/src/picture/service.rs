//! The service that restarts to update: `bench/service/service.py`, started with one model
//! directory, and stopped and started again for another. Called by [`crate::picture`].

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

/// The running service.
pub(crate) struct Service {
    python: PathBuf,
    address: SocketAddr,
    child: Child,
}

impl Service {
    /// Starts the service and waits until it listens.
    pub(crate) async fn start(python: &Path, model: &Path) -> Result<Self, String> {
        let address = free_address();
        let child = spawn(python, model, address)?;
        let mut service = Self { python: python.to_owned(), address, child };
        service.listening().await?;
        Ok(service)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the service, starts it with another model, and waits until it listens.
    pub(crate) async fn restart(&mut self, model: &Path) -> Result<(), String> {
        self.stop().await?;
        self.child = spawn(&self.python, model, self.address)?;
        self.listening().await
    }

    /// Sends SIGTERM and waits for the exit. uvicorn then answers the requests in flight.
    pub(crate) async fn stop(&mut self) -> Result<(), String> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        processes::signal(pid.ok_or("the service has exited early")?, Signal::SIGTERM);
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

fn spawn(python: &Path, model: &Path, address: SocketAddr) -> Result<Child, String> {
    let script = fixtures::workspace().join("bench/service/service.py");
    let mut command = Command::new(python);
    command.arg(script).arg(model).arg(address.port().to_string());
    command.env("ORT_DISABLE_TELEMETRY", "1").kill_on_drop(true);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    child.map_err(|error| format!("{}: {error}", python.display()))
}
