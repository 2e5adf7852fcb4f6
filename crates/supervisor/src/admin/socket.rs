//! The admin socket: a Unix socket with mode 0600. The peer's uid is checked as well.

use std::{
    convert::Infallible,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, http::Request, response::IntoResponse};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use interprocess::{
    local_socket::{
        GenericFilePath, ListenerOptions, ToFsName,
        tokio::{Listener, Stream, prelude::*},
    },
    os::unix::{
        local_socket::ListenerOptionsExt, uds_local_socket::tokio::Listener as UnixSocketListener,
    },
};
use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::{Uid, geteuid},
};
use onnxd_admin::api::{Refusal, RefusalKind};
use onnxd_proto::{layout::create_folder, wire::message::NamedSocket};
use onnxd_telemetry::log_limit::LogLimit;
use tokio::{sync::Semaphore, time};
use tower::ServiceExt;

use super::responses::Refused;

/// Maximum open admin connections. Each queued update holds one, so this exceeds the limit on
/// updates.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// How long a connection may be idle or take to send headers.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a refused caller may take to send its request and to read the refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest path of a socket that Linux can bind, without the zero byte at its end.
const PATH_BYTES_MAX: usize = 107;
/// Suffix of a successor's socket until it takes over the name.
const SUCCESSOR: &str = ".successor";

/// Limits the lines about refused connections.
static REFUSED: LogLimit = LogLimit::new();

/// The bound admin socket. Dropping it removes the file, unless a successor owns the name by then.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    listener: Listener,
    /// `None` if systemd owns the file.
    name: Option<AdminName>,
}

/// The path of an admin socket, with the inode that distinguishes it from a successor's.
#[derive(Debug)]
struct AdminName(NamedSocket);

impl Drop for AdminName {
    fn drop(&mut self) {
        for path in [self.0.path.clone(), successor_path(&self.0.path)] {
            if fs::symlink_metadata(&path)
                .is_ok_and(|found| (found.dev(), found.ino()) == (self.0.device, self.0.inode))
            {
                // If this fails, the next start replaces the file.
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Returns the path of a successor's socket until it takes over the name.
fn successor_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SUCCESSOR);
    name.into()
}

/// Checks that the system can bind a path: see unix(7).
fn require_short(path: &Path) -> io::Result<()> {
    if std::os::unix::net::SocketAddr::from_pathname(path).is_ok() {
        return Ok(());
    }
    let bytes = path.as_os_str().len();
    let message = format!(
        "the path has {bytes} bytes, at most {PATH_BYTES_MAX} are possible; pass a shorter path"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Removes the socket that a killed successor left behind.
pub(crate) fn remove_successor_socket(path: &Path) {
    let _ = fs::remove_file(successor_path(path));
}

/// Renames a successor's socket to the predecessor's name.
///
/// # Errors
/// The rename fails.
pub(crate) fn take_over_name(path: &Path) -> io::Result<()> {
    fs::rename(successor_path(path), path)
}

impl AsFd for AdminSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let Listener::UdSocket(listener) = &self.listener;
        listener.as_fd()
    }
}

impl AdminSocket {
    /// Returns whether a server answers at this path, if the socket could be bound here otherwise.
    ///
    /// # Errors
    /// The path is too long, or another file is there.
    pub(crate) fn is_served(path: &Path) -> io::Result<bool> {
        require_short(path)?;
        if require_short(&successor_path(path)).is_err() {
            tracing::warn!(
                "--admin-socket is too long for the socket of a successor; SIGUSR2 will be refused"
            );
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                Err(io::Error::new(io::ErrorKind::AddrInUse, "a file that is not a socket exists"))
            }
            Ok(_) => Ok(std::os::unix::net::UnixStream::connect(path).is_ok()),
            Err(_) => Ok(false),
        }
    }

    /// Binds the socket with mode 0600. Replaces the socket of a dead supervisor; the lock on the state
    /// directory proves that no other process uses this state. A successor binds another name until
    /// [`take_over_name`].
    ///
    /// # Errors
    /// The path cannot be bound, or another server answers on it.
    pub(crate) fn bind(path: &Path, is_successor: bool) -> io::Result<Self> {
        let bound = if is_successor { successor_path(path) } else { path.to_owned() };
        require_short(&bound)?;
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        remove_successor_socket(path);
        if !is_successor
            && fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
        {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another server is listening on it; stop it or choose another path",
                ));
            }
            fs::remove_file(path)?;
        }
        let listener = ListenerOptions::new()
            .name(bound.as_path().to_fs_name::<GenericFilePath>()?)
            .reclaim_name(false)
            .mode(0o600)
            .create_tokio()?;
        let metadata = fs::symlink_metadata(&bound)?;
        let name =
            NamedSocket { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() };
        Ok(Self { listener, name: Some(AdminName(name)) })
    }

    /// Uses a socket that systemd passed.
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub(crate) fn passed(socket: UnixListener) -> io::Result<Self> {
        let listener = UnixSocketListener::try_from(OwnedFd::from(socket))?;
        Ok(Self { listener: listener.into(), name: None })
    }

    /// Returns whether systemd passed it.
    pub(crate) fn is_passed(&self) -> bool {
        self.name.is_none()
    }

    /// Returns the file for workers to remove if this process dies. Returns `None` if the socket has no path.
    pub(crate) fn name(&self) -> NamedSocket {
        let none = || NamedSocket { path: PathBuf::new(), device: 0, inode: 0 };
        self.name.as_ref().map_or_else(none, |name| name.0.clone())
    }

    /// Accepts connections until the task is dropped.
    pub(crate) async fn serve(self, router: Router) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if let Err(refusal) = may_administer(&stream) {
                if let Some(suppressed) = REFUSED.admit() {
                    let reason = refusal.message.as_str();
                    tracing::warn!(reason, suppressed, "refused an admin connection");
                }
                tokio::spawn(refuse(stream, refusal));
                continue;
            }
            let router = router.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    router.clone().oneshot(request.map(Body::new))
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(IDLE_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "admin connection failed");
                }
                drop(permit);
            });
        }
    }
}

/// Checks that the peer is root or runs as the same user as the supervisor. Its PID does not count: that of a process
/// in another PID namespace, such as another container of the pod, is 0.
fn may_administer(stream: &Stream) -> Result<(), Refusal> {
    let forbidden = |message| Err(RefusalKind::Forbidden.because(message));
    let Stream::UdSocket(socket) = stream;
    let peer = match getsockopt(&socket.as_fd(), PeerCredentials) {
        Ok(credentials) => Uid::from_raw(credentials.uid()),
        Err(error) => return forbidden(format!("cannot read the user of the caller: {error}")),
    };
    let own = geteuid();
    if peer == own || peer.is_root() {
        return Ok(());
    }
    forbidden(format!(
        "user {peer} may not administer this server; run the command as user {own} or as root"
    ))
}

/// Answers every request of a connection with a refusal.
async fn refuse(stream: Stream, refusal: Refusal) {
    let service = service_fn(move |_: Request<Incoming>| {
        let response = Refused(refusal.clone()).into_response();
        async move { Ok::<_, Infallible>(response) }
    });
    let connection =
        http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    // The caller may have disconnected.
    let _ = time::timeout(REFUSAL_TIMEOUT, connection).await;
}
