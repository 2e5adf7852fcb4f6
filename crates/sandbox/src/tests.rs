// Makes system calls by number: most denied calls cannot be tested otherwise.
use std::{
    env,
    fs::{self, File, OpenOptions},
    net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::Path,
    process::Command,
    sync::mpsc,
    thread,
};

use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, unshare},
    sys::{
        signal::kill,
        socket::{AddressFamily, SockFlag, SockType, socket},
    },
    unistd::{Pid, getppid},
};
use onnxd_proto::layout::Layout;

use super::{files::Files, *};

/// Passes the directories to the process in [`inside`].
const ROOT: &str = "ONNXD_TEST_ROOT";

/// Runs a test of this file in a dedicated process, because confinement is permanent.
fn in_dedicated_process(test: &str, root: &Path) -> std::process::Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(ROOT, root);
    command.output().unwrap()
}

#[test]
fn confined_process_can_compute_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let layout = Layout::new(root.path());
    let own = [layout.versions(), layout.compiled_root(), layout.generations_root()];
    for dir in own.into_iter().chain([root.path().join("run")]) {
        fs::create_dir_all(dir).unwrap();
    }
    for file in [layout.versions().join("model"), layout.lock(), root.path().join("run/admin")] {
        fs::write(file, "x").unwrap();
    }
    let _listener = UnixListener::bind(root.path().join("listener")).unwrap();
    let output = in_dedicated_process("tests::inside", root.path());
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    // A filter that matches no test runs none and succeeds.
    assert!(stdout.contains("1 passed"), "{stdout}");
    assert!(layout.lock().exists() && !root.path().join("run/admin").exists());
}

#[test]
#[ignore = "confines its process; the test above runs it in a dedicated one"]
fn inside() {
    let Some(root) = env::var_os(ROOT) else { return };
    let root = Path::new(&root).to_owned();
    let layout = Layout::new(&root);
    // A thread that exists before confinement, like a worker's guard.
    let (files, guards) = mpsc::channel::<Files>();
    let (done, guarded) = mpsc::channel();
    let (before, at) = (root.clone(), layout.clone());
    let guard = thread::spawn(move || {
        guards.recv().unwrap().enter().unwrap();
        done.send(()).unwrap();
        denied_here(&before, &at);
        fs::remove_file(before.join("run/admin")).unwrap();
    });
    limit(Limits { file_bytes: Some(0), ..Limits::default() }).unwrap();
    super::enter().unwrap();
    let rules = Files::for_worker(&layout, &root.join("run/admin")).unwrap();
    files.send(rules.try_clone().unwrap()).unwrap();
    guarded.recv().unwrap();
    rules.enter().unwrap();
    denied_here(&root, &layout);
    guard.join().unwrap();
    // New threads still start, and are confined from the start.
    thread::spawn(move || denied_here(&root, &layout)).join().unwrap();
}

#[test]
fn fetcher_can_connect_and_write_below_one_directory() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("downloads")).unwrap();
    fs::write(root.path().join("token"), "x").unwrap();
    fs::write(root.path().join("other"), "x").unwrap();
    let output = in_dedicated_process("tests::inside_fetcher", root.path());
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("1 passed"), "{stdout}");
}

#[test]
#[ignore = "confines its process; the test above runs it in a dedicated one"]
fn inside_fetcher() {
    let Some(root) = env::var_os(ROOT) else { return };
    let root = Path::new(&root).to_owned();
    let (downloads, token) = (root.join("downloads"), root.join("token"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = UnixListener::bind(root.join("listener")).unwrap();
    limit(Limits::fetching(1 << 20)).unwrap();
    super::enter_with(Network::Outgoing).unwrap();
    Files::of_fetcher(&downloads, std::slice::from_ref(&token)).unwrap().enter().unwrap();
    // As the resolver and the client do.
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert!(("localhost", 1).to_socket_addrs().unwrap().next().is_some());
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), None).unwrap();
    UnixStream::pair().unwrap();
    fs::write(downloads.join("new"), "x").unwrap();
    fs::create_dir(downloads.join("sub")).unwrap();
    fs::rename(downloads.join("new"), downloads.join("sub/new")).unwrap();
    assert_eq!(fs::read(&token).unwrap(), b"x");
    let (eperm, eacces) = (Some(Errno::EPERM), Some(Errno::EACCES));
    denied(TcpListener::bind("127.0.0.1:0").err(), eperm);
    denied(UdpSocket::bind("127.0.0.1:0").err(), eperm);
    denied(UnixStream::connect(root.join("listener")).err(), eperm);
    denied(UnixDatagram::pair().err(), eperm);
    denied(service.accept().err(), eperm);
    denied(listener.accept().err(), eperm);
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), None);
    assert_eq!(raw.err(), eperm);
    let packet = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::empty(), None);
    assert_eq!(packet.err(), eperm);
    denied(Command::new("/bin/true").status().err(), eperm);
    denied(File::open(root.join("other")).err(), eacces);
    denied(File::open("/etc/passwd").err(), eacces);
    denied(fs::write(root.join("new"), "").err(), eacces);
    denied(fs::remove_file(&token).err(), eacces);
}

/// Asserts that operations are denied which work outside the sandbox, at least for root.
fn denied_here(root: &Path, layout: &Layout) {
    assert_eq!(fs::read(layout.versions().join("model")).unwrap(), b"x");
    cannot_open_sockets(root);
    denied(Command::new("/bin/true").status().err(), Some(Errno::EPERM));
    let parent = kill(getppid(), None).map_err(std::io::Error::from);
    denied(parent.err(), Some(Errno::EPERM));
    // Signal 0 only checks permission.
    kill(Pid::this(), None).unwrap();
    for flag in [CloneFlags::CLONE_NEWUSER, CloneFlags::CLONE_NEWNS, CloneFlags::CLONE_NEWNET] {
        assert_eq!(unshare(flag), Err(Errno::EPERM));
    }
    cannot_open_other_files(root, layout);
    cannot_make_denied_calls();
    let status = fs::read_to_string("/proc/thread-self/status");
    denied(status.err(), Some(Errno::EACCES));
    assert_eq!(prctl::get_dumpable(), Ok(false));
    assert_eq!(prctl::get_no_new_privs(), Ok(true));
}

fn cannot_open_sockets(root: &Path) {
    let eperm = Some(Errno::EPERM);
    denied(TcpListener::bind("127.0.0.1:0").err(), eperm);
    denied(TcpStream::connect("[::1]:1").err(), eperm);
    denied(UdpSocket::bind("127.0.0.1:0").err(), eperm);
    denied(UnixStream::connect(root.join("listener")).err(), eperm);
    denied(UnixDatagram::unbound().err(), eperm);
    denied(UnixStream::pair().err(), eperm);
}

fn cannot_open_other_files(root: &Path, layout: &Layout) {
    let eacces = Some(Errno::EACCES);
    for path in [Path::new("/etc/passwd"), Path::new("/proc/1/cmdline"), &layout.lock()] {
        denied(File::open(path).err(), eacces);
    }
    denied(fs::read_dir("/").err(), eacces);
    let model = layout.versions().join("model");
    denied(OpenOptions::new().write(true).open(&model).err(), eacces);
    denied(fs::write(layout.versions().join("new"), "").err(), eacces);
    denied(fs::remove_file(&model).err(), eacces);
    denied(fs::rename(&model, root.join("elsewhere")).err(), eacces);
    denied(fs::create_dir(root.join("run/dir")).err(), eacces);
    denied(fs::set_permissions(&model, PermissionsExt::from_mode(0o777)).err(), Some(Errno::EPERM));
}

/// Makes calls by number with invalid arguments: an allowed call would return another error.
#[allow(unsafe_code)]
fn cannot_make_denied_calls() {
    let call = |number: libc::c_long| {
        // SAFETY: with these arguments each call has no effect even if allowed: null pointers,
        // closed descriptors and zero lengths.
        unsafe { libc::syscall(number, -1_i64, 0, 0, 0, 0, 0) };
        Errno::last()
    };
    for (number, command) in [
        (libc::SYS_fcntl, 8),
        (libc::SYS_fcntl, 10),
        (libc::SYS_fcntl, 15),
        (libc::SYS_ioctl, 0x8901),
        (libc::SYS_ioctl, 0x8902),
        (libc::SYS_setpriority, 1),
    ] {
        // SAFETY: as above: -1 is neither a descriptor nor a kind of process.
        unsafe { libc::syscall(number, -1_i64, command, 0) };
        assert_eq!(Errno::last(), Errno::EPERM, "{number} {command}");
    }
    for number in [
        libc::SYS_ptrace,
        libc::SYS_semtimedop,
        libc::SYS_ioprio_set,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_mount,
        libc::SYS_pivot_root,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_keyctl,
        libc::SYS_perf_event_open,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_kexec_load,
        libc::SYS_finit_module,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_personality,
        libc::SYS_execveat,
    ] {
        assert_eq!(call(number), Errno::EPERM, "call {number}");
    }
    assert_eq!(call(libc::SYS_clone3), Errno::ENOSYS);
    #[cfg(target_arch = "x86_64")]
    for second in [libc::SYS_socket, libc::SYS_execve] {
        assert_eq!(call(0x4000_0000 | second), Errno::EPERM, "x32 call {second}");
    }
    // SAFETY: the kernel rejects these flags anyway, with EINVAL.
    let cloned = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_THREAD, 0, 0, 0, 0) };
    assert_eq!((cloned, Errno::last()), (-1, Errno::EINVAL), "a thread may be made");
    for flags in [0, libc::SIGCHLD, libc::CLONE_NEWUSER, libc::CLONE_THREAD | libc::CLONE_NEWNS] {
        // SAFETY: a process created here would continue below like this one and fail the test.
        let cloned = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        assert_eq!((cloned, Errno::last()), (-1, Errno::EPERM), "flags {flags:x}");
    }
}

/// Asserts that the call failed with this error.
#[track_caller]
fn denied(error: Option<std::io::Error>, with: Option<Errno>) {
    let found = error.and_then(|error| error.raw_os_error()).map(Errno::from_raw);
    assert_eq!(found, with);
}
