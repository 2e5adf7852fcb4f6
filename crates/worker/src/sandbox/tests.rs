// Calls the kernel by number, since there is no other way to try most of what is denied.
use std::{
    env,
    fs::{self, File, OpenOptions},
    net::{TcpListener, TcpStream, UdpSocket},
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
    sys::signal::kill,
    unistd::{Pid, getppid},
};
use onnxd_proto::layout::Layout;

use super::{files::Files, *};

/// Where the process in [`inside`] finds its directories.
const ROOT: &str = "ONNXD_TEST_ROOT";

/// Runs a test of this file in a process of its own: what it takes from itself is gone for good.
fn in_its_own_process(test: &str, root: &Path) -> std::process::Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(ROOT, root);
    command.output().unwrap()
}

#[test]
fn a_confined_process_keeps_what_it_computes_with_and_nothing_else_on_any_thread() {
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
    let output = in_its_own_process("sandbox::tests::inside", root.path());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // A filter that does not match a test runs none, and succeeds.
    assert!(said.contains("1 passed"), "{said}");
    assert!(layout.lock().exists() && !root.path().join("run/admin").exists());
}

#[test]
#[ignore = "takes from its process what other tests need; the test above starts it alone"]
fn inside() {
    let Some(root) = env::var_os(ROOT) else { return };
    let root = Path::new(&root).to_owned();
    let layout = Layout::new(&root);
    // One thread that is there before, as a worker's guard is.
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
    let rules = Files::of_worker(&layout, &root.join("run/admin")).unwrap();
    files.send(rules.try_clone().unwrap()).unwrap();
    guarded.recv().unwrap();
    rules.enter().unwrap();
    denied_here(&root, &layout);
    guard.join().unwrap();
    // Threads can still be started, and are confined from their start.
    thread::spawn(move || denied_here(&root, &layout)).join().unwrap();
}

/// What fails is denied, and not merely impossible: these all work outside, for root at least.
fn denied_here(root: &Path, layout: &Layout) {
    assert_eq!(fs::read(layout.versions().join("model")).unwrap(), b"x");
    reaches_nobody(root);
    denied(Command::new("/bin/true").status().err(), Some(Errno::EPERM));
    let parent = kill(getppid(), None).map_err(std::io::Error::from);
    denied(parent.err(), Some(Errno::EPERM));
    // Signal 0 to itself only asks whether that is allowed.
    kill(Pid::this(), None).unwrap();
    for flag in [CloneFlags::CLONE_NEWUSER, CloneFlags::CLONE_NEWNS, CloneFlags::CLONE_NEWNET] {
        assert_eq!(unshare(flag), Err(Errno::EPERM));
    }
    opens_nothing_else(root, layout);
    calls_nothing_else();
    let status = fs::read_to_string("/proc/thread-self/status");
    denied(status.err(), Some(Errno::EACCES));
    assert_eq!(prctl::get_dumpable(), Ok(false));
    assert_eq!(prctl::get_no_new_privs(), Ok(true));
}

fn reaches_nobody(root: &Path) {
    let eperm = Some(Errno::EPERM);
    denied(TcpListener::bind("127.0.0.1:0").err(), eperm);
    denied(TcpStream::connect("[::1]:1").err(), eperm);
    denied(UdpSocket::bind("127.0.0.1:0").err(), eperm);
    denied(UnixStream::connect(root.join("listener")).err(), eperm);
    denied(UnixDatagram::unbound().err(), eperm);
    denied(UnixStream::pair().err(), eperm);
}

fn opens_nothing_else(root: &Path, layout: &Layout) {
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

/// By number, and without arguments: what is not denied would answer something else.
#[allow(unsafe_code)]
fn calls_nothing_else() {
    let call = |number: libc::c_long| {
        // SAFETY: each of these does nothing with these arguments, also where it is not denied:
        // they are null pointers, descriptors that are not open and lengths of 0.
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
        // SAFETY: as above: no descriptor and no kind of process is -1.
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
    // SAFETY: with these flags the kernel refuses anyway, with EINVAL.
    let cloned = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_THREAD, 0, 0, 0, 0) };
    assert_eq!((cloned, Errno::last()), (-1, Errno::EINVAL), "a thread may be made");
    for flags in [0, libc::SIGCHLD, libc::CLONE_NEWUSER, libc::CLONE_THREAD | libc::CLONE_NEWNS] {
        // SAFETY: a process that this made would go on below as this one does, and fail the test.
        let cloned = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        assert_eq!((cloned, Errno::last()), (-1, Errno::EPERM), "flags {flags:x}");
    }
}

/// The error is this one.
#[track_caller]
fn denied(error: Option<std::io::Error>, with: Option<Errno>) {
    let found = error.and_then(|error| error.raw_os_error()).map(Errno::from_raw);
    assert_eq!(found, with);
}
