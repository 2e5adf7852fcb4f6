//! Checks for `--check-config` what a start would find: directories, addresses, the admin socket, the worker and ONNX
//! Runtime. Leaves nothing behind, and does not disturb a server that runs with the same configuration.

use std::{fs, io, net::SocketAddr, path::Path, process::Stdio};

use onnxd_engine::{models::store, pool::executable::WorkerExecutable};
use onnxd_proto::{BUILD_ID, domain::Probe, exit::Failure, layout::Layout};
use tokio::net::TcpSocket;

use crate::{admin::AdminSocket, config::Config, process::machine};

/// Prefix of the directory that shows whether one can be created. It is removed at once.
const TRIAL: &str = ".onnxd-check-";

/// Checks everything. Logs what is in use, since it may be in use by the server that runs now.
///
/// # Errors
/// The first problem that would keep a server from starting. The message names the flag.
pub(super) fn check(config: &Config) -> Result<(), Failure> {
    for model in &config.models {
        let Some(path) = model.uri.directory() else { continue };
        let invalid = |reason: &str| {
            let message = format!("--model {}: {} {reason}", model.name, path.display());
            Failure::configuration(message)
        };
        if !path.is_dir() {
            return Err(invalid("is not a directory"));
        }
        fs::read_dir(path).map_err(|error| invalid(&format!("cannot be read: {error}")))?;
    }
    worker(config)?;
    machine::usable_cpus()?;
    state(&config.state_dir)?;
    let socket = &config.admin_socket;
    let invalid = |error: &dyn std::fmt::Display| {
        let path = socket.display();
        Failure::configuration(format!("--admin-socket: cannot listen on {path}: {error}"))
    };
    if AdminSocket::is_served(socket).map_err(|error| invalid(&error))? {
        tracing::info!(path = %socket.display(), "a server listens on --admin-socket");
    }
    socket.parent().map_or(Ok(()), writable).map_err(|error| invalid(&error))?;
    addresses(config)
}

/// Checks that the worker is of this build and can load ONNX Runtime.
fn worker(config: &Config) -> Result<(), Failure> {
    let path = config.worker_binary.display();
    let invalid = |reason: &dyn std::fmt::Display| {
        Failure::configuration(format!("--worker-binary: {path}: {reason}"))
    };
    let library = &config.onnxruntime;
    let executable = WorkerExecutable::open(&config.worker_binary, library, config.sandbox)
        .map_err(|error| invalid(&error))?;
    let mut command = executable.command();
    command.arg("probe").arg("--onnxruntime").arg(library);
    let output = command.stdin(Stdio::null()).output().map_err(|error| invalid(&error))?;
    let Ok(Probe { build_id, failure }) = serde_json::from_slice(&output.stdout) else {
        return Err(invalid(&format!("not a worker of this build: {}", output.status)));
    };
    match failure {
        _ if build_id != BUILD_ID => Err(invalid(&format!(
            "from another build: it reports {build_id}, this supervisor is {BUILD_ID}"
        ))),
        Some(reason) => Err(Failure::configuration(format!("--onnxruntime: {reason}"))),
        None => Ok(()),
    }
}

/// Checks that the state directory can be created or written to.
fn state(path: &Path) -> Result<(), Failure> {
    let layout = Layout::new(path);
    for folder in [path.to_owned(), layout.versions(), layout.generations_root()] {
        writable(&folder).map_err(|error| {
            Failure::configuration(format!("--state-dir: {}: {error}", folder.display()))
        })?;
    }
    let holder = store::holder(&layout.lock()).map_err(|error| {
        Failure::configuration(format!("--state-dir: {}: {error}", layout.lock().display()))
    })?;
    if let Some(pid) = holder {
        tracing::info!(pid, path = %path.display(), "a server uses --state-dir");
    }
    Ok(())
}

/// Checks that a directory can be written to or created, by creating one in it or in its nearest parent.
fn writable(folder: &Path) -> io::Result<()> {
    let existing = folder.ancestors().find(|parent| parent.symlink_metadata().is_ok());
    let existing = existing.unwrap_or(Path::new("/"));
    if !fs::metadata(existing)?.is_dir() {
        let message = format!("{} is not a directory", existing.display());
        return Err(io::Error::new(io::ErrorKind::NotADirectory, message));
    }
    let trial = existing.join(format!("{TRIAL}{}", std::process::id()));
    fs::create_dir(&trial)?;
    fs::remove_dir(&trial)
}

/// Checks that the addresses belong to this machine, and not to each other.
fn addresses(config: &Config) -> Result<(), Failure> {
    let admin = config.admin_listen.as_ref().map(|admin| admin.address);
    let all = [
        ("--listen", Some(config.listen)),
        ("--grpc-listen", config.grpc_listen),
        ("--admin-listen", admin),
    ];
    let all: Vec<(&str, SocketAddr)> =
        all.into_iter().filter_map(|(flag, address)| Some((flag, address?))).collect();
    for (index, (flag, address)) in all.iter().enumerate() {
        if let Some((other, _)) = all[..index].iter().find(|(_, other)| overlap(*other, *address)) {
            let message = format!("{flag}: {address} is the address of {other}, use another port");
            return Err(Failure::configuration(message));
        }
        match bind(*address) {
            Ok(()) => {}
            // The server that runs now, or systemd for this one.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tracing::warn!(%address, "the address of {flag} is in use; a second server could not start");
            }
            Err(error) => {
                let message = format!("{flag}: cannot listen on {address}: {error}");
                return Err(Failure::configuration(message));
            }
        }
    }
    Ok(())
}

/// Returns whether both cannot be bound. Port 0 is any free port.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let is_same_ip = one.ip() == other.ip();
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && (is_same_ip || is_any)
}

/// Binds an address without listening, so that no client ever connects.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As for the real socket: connections that have just ended do not matter.
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_if_a_socket_covers_the_other() {
        for (one, other, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("[::1]:80", "127.0.0.1:80", false),
        ] {
            assert_eq!(
                overlap(one.parse().unwrap(), other.parse().unwrap()),
                expected,
                "{one} {other}"
            );
        }
    }

    #[test]
    fn directory_is_tried_without_a_trace() {
        let root = tempfile::tempdir().unwrap();
        writable(&root.path().join("a/b")).unwrap();
        assert!(fs::read_dir(root.path()).unwrap().next().is_none());
        fs::write(root.path().join("file"), []).unwrap();
        let error = writable(&root.path().join("file/b")).unwrap_err().to_string();
        assert!(error.contains("file is not a directory"), "{error}");
    }

    #[test]
    fn address_of_another_host_cannot_be_bound() {
        bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = bind(held.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
