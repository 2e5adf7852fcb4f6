//! Checks for `--check-config` what a start would find: directories, addresses, the admin socket,
//! the worker, ONNX Runtime, the database of collections, and models in directories. Leaves nothing
//! behind, and does not disturb a server that runs with the same configuration.

use std::{fs, io, net::SocketAddr, path::Path, process::Stdio};

use onnxd_engine::{models::store, pool::executable::WorkerExecutable};
use onnxd_proto::{BUILD_ID, domain::Probe, exit::Failure, layout::Layout};
use tokio::net::TcpSocket;

use super::{search, sockets, start, trials, workers};
use crate::{
    admin::AdminSocket,
    config::{Config, Problems, ServeArguments},
    process::{inherited::Inherited, machine},
};

/// Prefix of the directory that shows whether one can be created. It is removed at once.
const TRIAL: &str = ".onnxd-check-";

/// Checks everything. Logs what is in use by the server that runs now, and models that a start would not serve.
///
/// # Errors
/// What would keep a server from starting, with a line for each problem that names the flag.
pub(super) fn check(settings: ServeArguments, inherited: &Inherited) -> Result<(), Failure> {
    let mut problems = Problems::default();
    if let Some(mut config) = Config::load_to_check(settings, &mut problems) {
        problems.keep(sockets::adopt(&mut config, inherited));
        on_this_machine(&config, &mut problems);
    }
    problems.finish()
}

/// Tries what the configuration names.
fn on_this_machine(config: &Config, problems: &mut Problems) {
    let executables = [&config.worker_binary, &config.onnxruntime];
    // Otherwise the problem is known.
    let are_found = executables.iter().all(|path| !path.as_os_str().is_empty());
    let worker = are_found.then(|| problems.keep(worker(config))).flatten();
    problems.keep(machine::usable_cpus());
    let body_memory_bytes = machine::body_memory_bytes(config.body_memory_bytes);
    if let Some(workers) = problems.keep(workers::worker_count(config)) {
        start::log_limits(workers, body_memory_bytes);
    }
    let state = problems.keep(state(&config.state_dir));
    let (is_usable, holder) = (state.is_some(), state.flatten());
    let is_served = problems.keep(admin_socket(&config.admin_socket)).unwrap_or_default();
    addresses(config, holder.is_some() || is_served, problems);
    problems.keep(database(config));
    problems.keep(trials::run(config, is_usable, worker.as_ref()));
}

/// Checks that the database of collections can be used, if it can be reached.
fn database(config: &Config) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| Failure::internal(format!("cannot start the async runtime: {error}")))?;
    runtime.block_on(search::probe(config))
}

/// Checks that the admin socket can be created. Returns whether a server listens on it.
fn admin_socket(path: &Path) -> Result<bool, Failure> {
    let invalid = |error: io::Error| {
        let message = format!("--admin-socket: cannot listen on {}: {error}", path.display());
        Failure::configuration(message)
    };
    let is_served = AdminSocket::is_served(path).map_err(invalid)?;
    if is_served {
        tracing::info!(path = %path.display(), "a server listens on --admin-socket");
    }
    path.parent().map_or(Ok(()), writable).map_err(invalid)?;
    Ok(is_served)
}

/// Checks that the worker is of this build and can load ONNX Runtime.
fn worker(config: &Config) -> Result<WorkerExecutable, Failure> {
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
        None => Ok(executable),
    }
}

/// Checks that the state directory can be created or written to. Returns the pid of the server that uses it.
fn state(path: &Path) -> Result<Option<String>, Failure> {
    let layout = Layout::new(path);
    let folders = [path.to_owned(), layout.versions(), layout.generations_root(), layout.staging()];
    for folder in folders {
        writable(&folder).map_err(|error| {
            Failure::configuration(format!("--state-dir: {}: {error}", folder.display()))
        })?;
    }
    let holder = store::holder(&layout.lock()).map_err(|error| {
        Failure::configuration(format!("--state-dir: {}: {error}", layout.lock().display()))
    })?;
    if let Some(pid) = &holder {
        tracing::info!(pid, path = %path.display(), "a server uses --state-dir");
    }
    Ok(holder)
}

/// Checks that a directory can be written to or created, by creating one in it or in its nearest parent.
fn writable(folder: &Path) -> io::Result<()> {
    let existing = folder.ancestors().find(|parent| parent.symlink_metadata().is_ok());
    let existing = existing.unwrap_or(Path::new("/"));
    if !fs::metadata(existing)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let trial = existing.join(format!("{TRIAL}{}", std::process::id()));
    fs::create_dir(&trial)?;
    fs::remove_dir(&trial)
}

/// Checks that the addresses belong to this machine, not to each other, and to no other program.
fn addresses(config: &Config, a_server_runs: bool, problems: &mut Problems) {
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
            problems.keep::<()>(Err(Failure::configuration(message)));
            continue;
        }
        match bind(*address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && a_server_runs => {
                tracing::info!(%address, "the address of {flag} is in use, probably by the server that runs");
            }
            result => {
                problems.keep(result.map_err(|error| {
                    let message = format!("{flag}: cannot listen on {address}: {error}");
                    Failure::configuration(message)
                }));
            }
        }
    }
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
        assert!(error.contains("not a directory"), "{error}");
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
