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
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
use rustix::io::{FdFlags, fcntl_setfd};

use super::init::Reporter;
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
/// The admin socket. Only systemd passes it: a successor binds its own, which then replaces the predecessor's.
pub(crate) const ADMIN: &str = "admin";
/// Names for `FileDescriptorName=` of a socket unit, with ours.
const UNIT_NAMES: [(&str, &str); 5] = [
    ("http", PUBLIC),
    // The name of earlier releases.
    ("public", PUBLIC),
    ("grpc", GRPC),
    ("admin", ADMIN),
    ("admin-tcp", ADMIN_TCP),
];
/// The lock of the state directory.
pub(crate) const LOCK: &str = "lock";
/// Suffix in [`SUCCESSION`] of a socket that systemd passed.
const ACTIVATED: &str = "@activated";
/// The channel to the predecessor.
pub(crate) const HANDOVER: &str = "handover";
/// The pipe to the first process of a container.
pub(crate) const FIRST_PROCESS: &str = "first-process";

/// The inherited descriptors.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    sockets: Vec<Socket>,
    /// The admin socket.
    pub admin: Option<UnixListener>,
    /// The lock of the state directory, which is already held.
    pub lock: Option<File>,
    /// The channel to the predecessor, if this process is a successor.
    pub handover: Option<UnixStream>,
    /// Reports successors, if the first process of a container has started this one.
    pub reporter: Option<Reporter>,
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
                FIRST_PROCESS => inherited.reporter = Some(owned.into()),
                _ => {
                    if !getsockopt(&owned, AcceptConn).map_err(|error| invalid(&error))? {
                        return Err(invalid(
                            &"expected a listening socket; its unit must have ListenStream= and Accept=no",
                        ));
                    }
                    let (name, activated) = match name.strip_suffix(ACTIVATED) {
                        Some(name) => (name.to_owned(), true),
                        None => (name.clone(), false),
                    };
                    inherited.add(name, owned, activated).map_err(|reason| invalid(&reason))?;
                }
            }
        }
        Ok(inherited)
    }

    /// Adds a listening socket.
    fn add(&mut self, name: String, owned: OwnedFd, activated: bool) -> Result<(), String> {
        if name == ADMIN {
            let listener = UnixListener::from(owned);
            listener
                .local_addr()
                .map_err(|_| "expected a Unix socket, such as /run/onnxd-admin.sock")?;
            self.admin = Some(listener);
            return Ok(());
        }
        let listener = TcpListener::from(owned);
        listener.local_addr().map_err(|_| "expected a TCP socket, such as 127.0.0.1:8080")?;
        listener.set_nonblocking(true).map_err(|error| error.to_string())?;
        self.sockets.push(Socket { name, listener, activated });
        Ok(())
    }

    /// Returns the address of a socket that systemd passed.
    pub(crate) fn activated_address(&self, name: &str) -> Option<SocketAddr> {
        let mut sockets = self.sockets.iter().filter(|socket| socket.activated);
        sockets.find(|socket| socket.name == name)?.listener.local_addr().ok()
    }

    /// Returns the path of the admin socket that systemd passed.
    pub(crate) fn admin_path(&self) -> Option<PathBuf> {
        let address = self.admin.as_ref()?.local_addr().ok()?;
        address.as_pathname().map(Path::to_owned)
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
    // Every empty variable counts as not set.
    if let Some(names) = env::var(SUCCESSION).ok().filter(|names| !names.is_empty()) {
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

/// Maps systemd's names to ours. A socket without `FileDescriptorName=` has the name of its unit, and is the one for
/// HTTP.
fn systemd_names(count: usize, names: &str) -> Result<Vec<String>, String> {
    let known: Vec<&str> = UNIT_NAMES.into_iter().map(|(name, _)| name).collect();
    let known = known.join(", ").replace("public, ", "");
    let socket_names =
        names.split(':').map(ToOwned::to_owned).chain(std::iter::repeat(String::new()));
    let mut mapped: Vec<String> = Vec::new();
    for name in socket_names.take(count) {
        let is_default = name.is_empty() || name == "unknown" || name.ends_with(".socket");
        let named = UNIT_NAMES.into_iter().find(|(unit, _)| *unit == name);
        let ours = match named {
            Some((_, ours)) => ours.to_owned(),
            None if is_default => PUBLIC.to_owned(),
            None => {
                return Err(format!(
                    "LISTEN_FDNAMES: expected one of {known}, got {name:?}; set FileDescriptorName= in the socket unit"
                ));
            }
        };
        if mapped.contains(&ours) {
            return Err(format!(
                "LISTEN_FDNAMES: expected one socket each for {known}, got another one named {name:?}; set \
                 FileDescriptorName= in the socket units"
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
    fn names_of_units_are_known_or_refused() {
        for (count, names, expected) in [
            (0, "", &[][..]),
            (1, "", &[PUBLIC][..]),
            (1, "onnxd.socket", &[PUBLIC]),
            (1, "unknown", &[PUBLIC]),
            (2, "grpc:onnxd.socket", &[GRPC, PUBLIC]),
            (3, "public:grpc:admin-tcp", &[PUBLIC, GRPC, ADMIN_TCP]),
            (4, "admin:http:admin-tcp:grpc", &[ADMIN, PUBLIC, ADMIN_TCP, GRPC]),
        ] {
            assert_eq!(systemd_names(count, names).unwrap(), expected, "{names}");
        }
        for (names, part) in [
            ("onnxd.socket:other", "expected one of http, grpc, admin, admin-tcp, got \"other\""),
            ("gprc:http", "got \"gprc\"; set FileDescriptorName="),
            ("grpc:grpc", "one socket each for http, grpc, admin, admin-tcp"),
            ("http:public", "another one named \"public\""),
            ("http:x.socket", "another one named \"x.socket\""),
        ] {
            let refused = systemd_names(2, names).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
