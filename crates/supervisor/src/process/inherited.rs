//! Descriptors that were open when this process began: from systemd's socket activation
//! (sd_listen_fds(3)), or from the supervisor that this one succeeds. Nothing else in this
//! executable knows their numbers; [`crate::serve`] says what becomes of them.

// The only file that turns a number into an owned descriptor; no safe function can do that.
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

/// What a predecessor names its descriptors in, in their order and separated by colons.
pub(crate) const SUCCESSION: &str = "ONNXD_SUCCESSION_FDS";
/// The first descriptor, as systemd has it.
pub(crate) const FIRST: RawFd = 3;
/// More than anybody passes.
const DESCRIPTORS_MAX: usize = 16;

/// The listening socket for everybody.
pub(crate) const PUBLIC: &str = "public";
/// That for gRPC.
pub(crate) const GRPC: &str = "grpc";
/// That of the admin interface over TCP.
pub(crate) const ADMIN_TCP: &str = "admin-tcp";
/// The lock of the state directory.
pub(crate) const LOCK: &str = "lock";
/// What follows the name of a socket that came from systemd, in [`SUCCESSION`].
const ACTIVATED: &str = "@activated";
/// The channel to the predecessor.
pub(crate) const HANDOVER: &str = "handover";

/// What was inherited.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    sockets: Vec<Socket>,
    /// The state directory's lock, held.
    pub lock: Option<File>,
    /// To the supervisor that this one succeeds.
    pub handover: Option<UnixStream>,
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Socket {
    /// What it is for.
    name: String,
    pub listener: TcpListener,
    /// Whether it came from systemd, to this process or to the first of those that it succeeds: then it
    /// is where the unit says, whatever the configuration names.
    pub activated: bool,
}

/// What a predecessor calls a descriptor: its name, and whether systemd had passed it.
pub(crate) fn announce(name: &str, activated: bool) -> String {
    if activated { format!("{name}{ACTIVATED}") } else { name.to_owned() }
}

impl Inherited {
    /// Takes what is there. Called once, before anything else of this process has opened a
    /// descriptor.
    ///
    /// # Errors
    /// What was announced is not there, or nobody knows what it is for.
    pub(crate) fn take() -> Result<Self, Failure> {
        let mut taken = Self::default();
        for (index, name) in announced()?.into_iter().enumerate() {
            let descriptor = FIRST + RawFd::try_from(index).unwrap_or(RawFd::MAX);
            let wrong = |reason: &dyn std::fmt::Display| {
                let message = format!("the inherited descriptor {descriptor}, {name}: {reason}");
                Failure::configuration(message)
            };
            // The link is not followed, so that it does not matter what it is.
            fs::symlink_metadata(format!("/proc/self/fd/{descriptor}"))
                .map_err(|error| wrong(&error))?;
            // SAFETY: it is open, as was just seen. Nothing has been opened since this process
            // began, so it was inherited, and as this runs once, nobody else here owns it.
            let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
            // It was passed to this process, and not to those that this one starts.
            fcntl_setfd(&owned, FdFlags::CLOEXEC).map_err(|error| wrong(&error))?;
            match &*name {
                LOCK => taken.lock = Some(owned.into()),
                HANDOVER => taken.handover = Some(owned.into()),
                _ => {
                    let listener = TcpListener::from(owned);
                    listener.set_nonblocking(true).map_err(|error| wrong(&error))?;
                    listener.local_addr().map_err(|error| wrong(&error))?;
                    let (name, activated) = match name.strip_suffix(ACTIVATED) {
                        Some(name) => (name.to_owned(), true),
                        None => (name, false),
                    };
                    taken.sockets.push(Socket { name, listener, activated });
                }
            }
        }
        Ok(taken)
    }

    /// Whether another supervisor waits for this one to take over.
    pub(crate) fn succeeds(&self) -> bool {
        self.handover.is_some()
    }

    /// The socket of that name. After a change of the configuration a predecessor's may be at
    /// another address than is wanted, and is closed; systemd's is where its unit says.
    pub(crate) fn socket(&mut self, name: &str, wanted: SocketAddr) -> Option<Socket> {
        let index = self.sockets.iter().position(|socket| socket.name == name)?;
        let socket = self.sockets.swap_remove(index);
        let is_there = socket.listener.local_addr().is_ok_and(|found| {
            found.ip() == wanted.ip() && (found.port() == wanted.port() || wanted.port() == 0)
        });
        (is_there || socket.activated).then_some(socket)
    }

    /// Closes the sockets that nobody has taken: clients would wait there for an answer.
    pub(crate) fn close_others(&mut self) {
        self.sockets.clear();
    }
}

/// The names of what is there, in the order of the descriptors.
fn announced() -> Result<Vec<String>, Failure> {
    let wrong = |message: String| Err(Failure::configuration(message));
    if let Ok(names) = env::var(SUCCESSION) {
        return Ok(names.split(':').map(ToOwned::to_owned).collect());
    }
    if env::var("LISTEN_PID").ok() != Some(std::process::id().to_string()) {
        return Ok(Vec::new());
    }
    let count = env::var("LISTEN_FDS").ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    if count > DESCRIPTORS_MAX {
        return wrong(format!("LISTEN_FDS is {count}; at most {DESCRIPTORS_MAX} are taken"));
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = activated(count, &names).or_else(wrong)?;
    Ok(names.iter().map(|name| announce(name, true)).collect())
}

/// What systemd's names mean: those we know are meant, and the first one else is the public one,
/// whatever it is called.
fn activated(count: usize, names: &str) -> Result<Vec<String>, String> {
    let known = [PUBLIC, GRPC, ADMIN_TCP];
    let given = names.split(':').map(ToOwned::to_owned).chain(std::iter::repeat(String::new()));
    let mut taken: Vec<String> = Vec::new();
    for name in given.take(count) {
        let meant = if known.contains(&&*name) { name.clone() } else { PUBLIC.to_owned() };
        if taken.contains(&meant) {
            return Err(format!(
                "LISTEN_FDNAMES: {name:?} is one too many: one each of {} is taken",
                known.join(", ")
            ));
        }
        taken.push(meant);
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_socket_without_a_known_name_is_the_public_one() {
        for (count, names, expected) in [
            (0, "", &[][..]),
            (1, "", &[PUBLIC][..]),
            (1, "onnxd.socket", &[PUBLIC]),
            (2, "grpc:onnxd.socket", &[GRPC, PUBLIC]),
            (3, "public:grpc:admin-tcp", &[PUBLIC, GRPC, ADMIN_TCP]),
        ] {
            assert_eq!(activated(count, names).unwrap(), expected, "{names}");
        }
        assert!(activated(2, "onnxd.socket:other").is_err());
        assert!(activated(2, "grpc:grpc").is_err());
    }
}
