//! Takes ownership of inherited descriptors: from systemd's socket activation (sd_listen_fds(3)), or from the
//! predecessor. [`crate::serve`] uses them. No other file knows their numbers.

// Turns a number into an owned descriptor, which no safe function can do.
#![allow(unsafe_code)]

use std::{
    env,
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use rustix::io::{FdFlags, fcntl_setfd};

use onnxd_proto::exit::Failure;

/// Variable in which a predecessor names the descriptors it passes, in order and separated by colons.
pub(crate) const SUCCESSION: &str = "ONNXD_SUCCESSION_FDS";
/// Number of the first descriptor, the same as systemd's.
pub(crate) const FIRST: RawFd = 3;
/// Maximum descriptors that systemd may pass.
const DESCRIPTORS_MAX: usize = 16;

/// The listening socket for HTTP.
pub(crate) const PUBLIC: &str = "public";
/// The listening socket for gRPC.
pub(crate) const GRPC: &str = "grpc";
/// The listening socket of the admin interface over TCP.
pub(crate) const ADMIN_TCP: &str = "admin-tcp";
/// The lock of the state directory.
pub(crate) const LOCK: &str = "lock";
/// Suffix in [`SUCCESSION`] of a socket that systemd passed.
const ACTIVATED: &str = "@activated";
/// The channel to the predecessor.
pub(crate) const HANDOVER: &str = "handover";

/// The inherited descriptors.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    sockets: Vec<Socket>,
    /// The lock of the state directory, which is already held.
    pub lock: Option<File>,
    /// The channel to the predecessor, if this process is a successor.
    pub handover: Option<UnixStream>,
}

/// An inherited listening socket.
#[derive(Debug)]
pub(crate) struct Socket {
    name: String,
    pub listener: TcpListener,
    /// Whether systemd passed it, to this process or to the first predecessor. Its address is then the unit's,
    /// whatever the configuration says.
    pub activated: bool,
}

/// Returns the entry of a descriptor in [`SUCCESSION`].
pub(crate) fn entry(name: &str, activated: bool) -> String {
    if activated { format!("{name}{ACTIVATED}") } else { name.to_owned() }
}

impl Inherited {
    /// Takes ownership of the descriptors. Called once, before this process opens any.
    ///
    /// # Errors
    /// A descriptor is not open or not a socket, or `LISTEN_FDS` or `LISTEN_FDNAMES` is invalid.
    pub(crate) fn take() -> Result<Self, Failure> {
        let mut inherited = Self::default();
        for (index, name) in names()?.into_iter().enumerate() {
            let descriptor = FIRST + RawFd::try_from(index).unwrap_or(RawFd::MAX);
            let invalid = |reason: &dyn std::fmt::Display| {
                let message = format!("inherited descriptor {descriptor} ({name}): {reason}");
                Failure::configuration(message)
            };
            // Does not follow the link, whose target may be anything.
            fs::symlink_metadata(format!("/proc/self/fd/{descriptor}"))
                .map_err(|error| invalid(&error))?;
            // SAFETY: the descriptor is open, as checked above. This process has opened none, so it was
            // inherited. This function runs once, so nothing else owns it.
            let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
            // Children of this process must not inherit it.
            fcntl_setfd(&owned, FdFlags::CLOEXEC).map_err(|error| invalid(&error))?;
            match &*name {
                LOCK => inherited.lock = Some(owned.into()),
                HANDOVER => inherited.handover = Some(owned.into()),
                _ => {
                    let listener = TcpListener::from(owned);
                    listener.set_nonblocking(true).map_err(|error| invalid(&error))?;
                    listener.local_addr().map_err(|error| invalid(&error))?;
                    let (name, activated) = match name.strip_suffix(ACTIVATED) {
                        Some(name) => (name.to_owned(), true),
                        None => (name, false),
                    };
                    inherited.sockets.push(Socket { name, listener, activated });
                }
            }
        }
        Ok(inherited)
    }

    /// Returns whether a predecessor waits for this process to take over.
    pub(crate) fn is_successor(&self) -> bool {
        self.handover.is_some()
    }

    /// Takes the socket of that name. After a change of the configuration, a predecessor's socket may have another
    /// address than `wanted`, and is closed. A socket from systemd is used at any address.
    pub(crate) fn socket(&mut self, name: &str, wanted: SocketAddr) -> Option<Socket> {
        let index = self.sockets.iter().position(|socket| socket.name == name)?;
        let socket = self.sockets.swap_remove(index);
        let matches = socket.listener.local_addr().is_ok_and(|bound| {
            bound.ip() == wanted.ip() && (bound.port() == wanted.port() || wanted.port() == 0)
        });
        (matches || socket.activated).then_some(socket)
    }

    /// Closes the sockets that were not taken. Clients would connect to them and never get a
    /// response.
    pub(crate) fn close_unused(&mut self) {
        self.sockets.clear();
    }
}

/// Returns the names of the inherited descriptors, in order.
fn names() -> Result<Vec<String>, Failure> {
    let invalid = |message: String| Err(Failure::configuration(message));
    if let Ok(names) = env::var(SUCCESSION) {
        return Ok(names.split(':').map(ToOwned::to_owned).collect());
    }
    if env::var("LISTEN_PID").ok() != Some(std::process::id().to_string()) {
        return Ok(Vec::new());
    }
    let count = env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    if count > DESCRIPTORS_MAX {
        return invalid(format!(
            "LISTEN_FDS: expected at most {DESCRIPTORS_MAX} sockets, got \"{count}\""
        ));
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = systemd_names(count, &names).or_else(invalid)?;
    Ok(names.iter().map(|name| entry(name, true)).collect())
}

/// Maps systemd's names to ours. One socket with an unknown name is the public one.
fn systemd_names(count: usize, names: &str) -> Result<Vec<String>, String> {
    let known = [PUBLIC, GRPC, ADMIN_TCP];
    let socket_names =
        names.split(':').map(ToOwned::to_owned).chain(std::iter::repeat(String::new()));
    let mut mapped: Vec<String> = Vec::new();
    for name in socket_names.take(count) {
        let ours = if known.contains(&&*name) { name.clone() } else { PUBLIC.to_owned() };
        if mapped.contains(&ours) {
            return Err(format!(
                "LISTEN_FDNAMES: expected one socket each for {}, got another one named {name:?}",
                known.join(", ")
            ));
        }
        mapped.push(ours);
    }
    Ok(mapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_socket_with_an_unknown_name_is_public() {
        for (count, names, expected) in [
            (0, "", &[][..]),
            (1, "", &[PUBLIC][..]),
            (1, "onnxd.socket", &[PUBLIC]),
            (2, "grpc:onnxd.socket", &[GRPC, PUBLIC]),
            (3, "public:grpc:admin-tcp", &[PUBLIC, GRPC, ADMIN_TCP]),
        ] {
            assert_eq!(systemd_names(count, names).unwrap(), expected, "{names}");
        }
        assert!(systemd_names(2, "onnxd.socket:other").is_err());
        assert!(systemd_names(2, "grpc:grpc").is_err());
    }
}
