//! The admin socket: a Unix socket with mode 0600. The peer's uid is checked as well.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use interprocess::{
    local_socket::{
        GenericFilePath, ListenerOptions, ToFsName,
        tokio::{Listener, Stream, prelude::*},
    },
    os::unix::local_socket::ListenerOptionsExt,
};
use nix::unistd::{Uid, geteuid};
use onnxd_proto::wire::message::NamedSocket;
use tokio::sync::Semaphore;
use tower::ServiceExt;

/// Maximum open admin connections. Each queued update holds one, so this exceeds the limit on
/// updates.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// How long a connection may be idle or take to send headers.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Suffix of a successor's socket until it takes over the name.
const SUCCESSOR: &str = ".successor";

/// The bound admin socket. Dropping it removes the file, unless a successor owns the name by then.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    listener: Listener,
    name: AdminName,
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

impl AdminSocket {
    /// Binds the socket with mode 0600. Replaces the socket of a dead supervisor; the lock on the state
    /// directory proves that no other process uses this state. A successor binds another name until
    /// [`take_over_name`].
    ///
    /// # Errors
    /// The path cannot be bound, or another server answers on it.
    pub(crate) fn bind(path: &Path, is_successor: bool) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        remove_successor_socket(path);
        let bound = if is_successor { successor_path(path) } else { path.to_owned() };
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
        Ok(Self { listener, name: AdminName(name) })
    }

    /// Returns the file for workers to remove if this process dies.
    pub(crate) fn name(&self) -> NamedSocket {
        self.name.0.clone()
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
            if !may_administer(&stream) {
                tracing::warn!("refused an admin connection from another user");
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

/// Returns whether the peer is root or runs as the same user as the supervisor.
fn may_administer(stream: &Stream) -> bool {
    let peer = stream.peer_creds().ok().and_then(|credentials| credentials.euid());
    peer.is_some_and(|uid| uid == geteuid().as_raw() || Uid::from_raw(uid).is_root())
}
