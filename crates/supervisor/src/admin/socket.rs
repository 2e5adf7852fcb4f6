//! The admin socket: a Unix socket that only its owner can open, with the peer's uid checked once
//! more.

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

/// Admin connections at once. Updates that wait for their turn hold one each, so there are more
/// than there can be of those.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// How long one may be idle, or take for the headers of a call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// What follows the socket's path until a successor takes the name over.
const SUCCESSOR: &str = ".successor";

/// The bound admin socket. Dropping it removes the name, unless a successor has it by then.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    listener: Listener,
    name: AdminName,
}

/// The name of an admin socket, by the inode that tells it from a successor's.
#[derive(Debug)]
struct AdminName(NamedSocket);

impl Drop for AdminName {
    fn drop(&mut self) {
        for path in [self.0.path.clone(), beside(&self.0.path)] {
            if fs::symlink_metadata(&path)
                .is_ok_and(|found| (found.dev(), found.ino()) == (self.0.device, self.0.inode))
            {
                // Where it cannot be removed the next start replaces it.
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Where a successor's socket stands until it takes the name over.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SUCCESSOR);
    name.into()
}

/// Removes what a successor that was killed has left.
pub(crate) fn remove_successors(path: &Path) {
    let _ = fs::remove_file(beside(path));
}

/// Gives a successor's socket its name, in place of the predecessor's.
///
/// # Errors
/// The directory does not allow it.
pub(crate) fn take_name_over(path: &Path) -> io::Result<()> {
    fs::rename(beside(path), path)
}

impl AdminSocket {
    /// Binds the socket with mode 0600. A socket that a dead supervisor left behind is replaced;
    /// the state directory's lock has shown that no living one uses it with this state. Whoever
    /// succeeds another binds beside it, see [`take_name_over`].
    ///
    /// # Errors
    /// The path cannot be bound, or a living server answers on it.
    pub(crate) fn bind(path: &Path, succeeds: bool) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        remove_successors(path);
        let bound = if succeeds { beside(path) } else { path.to_owned() };
        if !succeeds
            && fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
        {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another server answers here",
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

    /// What workers remove if this process cannot.
    pub(crate) fn name(&self) -> NamedSocket {
        self.name.0.clone()
    }

    /// Serves until the task is dropped.
    pub(crate) async fn serve(self, router: Router) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "an admin connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if !may_administer(&stream) {
                tracing::warn!("an admin connection of another user was refused");
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
                    tracing::debug!(%error, "an admin connection ended early");
                }
                drop(permit);
            });
        }
    }
}

/// Only root and whoever runs the supervisor.
fn may_administer(stream: &Stream) -> bool {
    let peer = stream.peer_creds().ok().and_then(|credentials| credentials.euid());
    peer.is_some_and(|uid| uid == geteuid().as_raw() || Uid::from_raw(uid).is_root())
}
