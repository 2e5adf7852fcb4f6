//! Denies system calls, by seccomp, with which a process could reach others, become another program
//! or change the machine. A deny list, because what a model needs differs between builds of ONNX
//! Runtime. A denied call fails with EPERM, so the process survives. A call of another architecture
//! kills the process.

use std::{collections::BTreeMap, env::consts::ARCH, process};

use nix::libc::{self, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads, sock_filter,
};

use super::{Network, SandboxError};

// Newer than the crate that names calls. Above 423, numbers are the same on all architectures.
const SYS_FCHMODAT2: c_long = 452;
const SYS_SETXATTRAT: c_long = 463;
const SYS_REMOVEXATTRAT: c_long = 466;
const SYS_OPEN_TREE_ATTR: c_long = 467;
const SYS_FILE_SETATTR: c_long = 469;

/// Calls that are denied with any arguments.
const DENIED: &[&[c_long]] = &[
    // Sockets that others connect to.
    &[libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4],
    // Other programs. Conditions on clone(2), below, deny new processes.
    &[libc::SYS_execve, libc::SYS_execveat],
    // Other processes: their memory, descriptors and signals, and System V and POSIX IPC.
    &[
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_process_mrelease,
        libc::SYS_kcmp,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_tkill,
        libc::SYS_move_pages,
        libc::SYS_migrate_pages,
        libc::SYS_shmget,
        libc::SYS_shmat,
        libc::SYS_shmctl,
        libc::SYS_semget,
        libc::SYS_semctl,
        libc::SYS_semop,
        libc::SYS_semtimedop,
        libc::SYS_msgget,
        libc::SYS_msgsnd,
        libc::SYS_msgrcv,
        libc::SYS_msgctl,
        libc::SYS_mq_open,
        libc::SYS_mq_unlink,
        // Scheduling of other processes. ONNX Runtime only sets CPU affinities.
        libc::SYS_ioprio_set,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
    ],
    // Mounts and namespaces.
    &[
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        SYS_OPEN_TREE_ATTR,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_unshare,
        libc::SYS_setns,
    ],
    // Kernel subsystems that have been used to escape sandboxes. io_uring bypasses this filter.
    &[
        libc::SYS_bpf,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_perf_event_open,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_userfaultfd,
        libc::SYS_fanotify_init,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
    ],
    // The machine.
    &[
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_syslog,
        libc::SYS_quotactl,
        libc::SYS_quotactl_fd,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_clock_adjtime,
        libc::SYS_adjtimex,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_vhangup,
        libc::SYS_personality,
    ],
    // Identity and privileges.
    &[
        libc::SYS_setuid,
        libc::SYS_setgid,
        libc::SYS_setreuid,
        libc::SYS_setregid,
        libc::SYS_setresuid,
        libc::SYS_setresgid,
        libc::SYS_setfsuid,
        libc::SYS_setfsgid,
        libc::SYS_setgroups,
        libc::SYS_capset,
    ],
    // File attributes, which Landlock does not restrict.
    &[
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        SYS_FCHMODAT2,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_mknodat,
        libc::SYS_utimensat,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fsetxattr,
        SYS_SETXATTRAT,
        libc::SYS_removexattr,
        libc::SYS_lremovexattr,
        libc::SYS_fremovexattr,
        SYS_REMOVEXATTRAT,
        SYS_FILE_SETATTR,
    ],
    ARCHITECTURE_SPECIFIC,
];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE_SPECIFIC: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_mknod,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
];

#[cfg(not(target_arch = "x86_64"))]
const ARCHITECTURE_SPECIFIC: &[c_long] = &[libc::SYS_kexec_file_load];

/// Commands of fcntl(2) that set the owner and the signal of a descriptor: F_SETOWN, F_SETSIG,
/// F_SETOWN_EX.
const OWNERS: [u32; 3] = [8, 10, 15];
// The same for ioctl(2).
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;

/// Flags of clone(2) that create namespaces.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Denies these calls for all threads of this process, permanently.
pub(crate) fn deny(network: Network) -> Result<(), SandboxError> {
    for program in programs(network)? {
        apply_filter_all_threads(&program)?;
    }
    Ok(())
}

/// Returns the filters. A call must pass all of them.
fn programs(network: Network) -> Result<Vec<BpfProgram>, SandboxError> {
    // The flags of clone3(2) are in memory, which filters cannot read. On ENOSYS, glibc falls back
    // to clone(2).
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let mut programs = vec![filter(rules(network)?, libc::EPERM)?, filter(clone3, libc::ENOSYS)?];
    if cfg!(target_arch = "x86_64") {
        programs.push(deny_x32());
    }
    Ok(programs)
}

fn filter(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    errno: i32,
) -> Result<BpfProgram, SandboxError> {
    let denied = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

fn rules(network: Network) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, SandboxError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    // A call without rules is always denied.
    let denied = DENIED.iter().flat_map(|calls| calls.iter());
    let mut rules: BTreeMap<_, _> = denied.map(|&call| (call, Vec::new())).collect();
    rules.extend(sockets(network)?);
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let mut clone = vec![rule(&[(0, MaskedEq(thread), 0)])?];
    for flag in NAMESPACES {
        let flag = u64::from(flag.unsigned_abs());
        clone.push(rule(&[(0, MaskedEq(flag), flag)])?);
    }
    rules.insert(libc::SYS_clone, clone);
    // A process may signal and limit itself; abort(3) sends a signal.
    let own = u64::from(process::id());
    for signal in
        [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo]
    {
        rules.insert(signal, vec![rule(&[(0, Ne, own)])?]);
    }
    rules.insert(libc::SYS_prlimit64, vec![rule(&[(0, Ne, 0), (0, Ne, own)])?]);
    // Only the caller's own priority may change.
    rules.insert(libc::SYS_setpriority, vec![rule(&[(1, Ne, 0)])?]);
    // The kernel sends signals to the owner of a descriptor.
    let owners = OWNERS.map(|command| rule(&[(1, Eq, u64::from(command))]));
    rules.insert(libc::SYS_fcntl, owners.into_iter().collect::<Result<_, _>>()?);
    // The same by ioctl, and calls that inject input into the terminal that receives our log.
    let requests = [libc::TIOCSTI, libc::TIOCLINUX, FIOSETOWN, SIOCSPGRP, libc::FIOASYNC];
    let requests = requests.map(|request| rule(&[(1, Eq, request & u64::from(u32::MAX))]));
    rules.insert(libc::SYS_ioctl, requests.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

/// Returns the rules about new sockets. A worker needs none: the one to the supervisor is open.
fn sockets(network: Network) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, SandboxError> {
    use SeccompCmpOp::{Eq, MaskedEq, Ne};
    const TYPE: u64 = 0xf;
    let of = |number: i32| u64::from(number.unsigned_abs());
    if network == Network::None {
        let calls = [libc::SYS_socket, libc::SYS_socketpair, libc::SYS_connect];
        return Ok(calls.map(|call| (call, Vec::new())).into());
    }
    let (v4, v6) = (of(libc::AF_INET), of(libc::AF_INET6));
    // The resolver asks the kernel for addresses through netlink. Local sockets would reach the
    // machine's services, and onnxd's own admin interface.
    let foreign = [(0, Ne, v4), (0, Ne, v6), (0, Ne, of(libc::AF_NETLINK))];
    let raw = of(libc::SOCK_RAW);
    let socket = vec![
        rule(&foreign)?,
        rule(&[(0, Eq, v4), (1, MaskedEq(TYPE), raw)])?,
        rule(&[(0, Eq, v6), (1, MaskedEq(TYPE), raw)])?,
    ];
    // A pair of another type could be connected to a service.
    let others = [libc::SOCK_DGRAM, libc::SOCK_SEQPACKET];
    let pairs = others.map(|other| rule(&[(1, MaskedEq(TYPE), of(other))]));
    let pairs = pairs.into_iter().collect::<Result<_, _>>()?;
    Ok(BTreeMap::from([(libc::SYS_socket, socket), (libc::SYS_socketpair, pairs)]))
}

/// Builds a rule that matches when all conditions on 32-bit arguments hold.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, SandboxError> {
    let condition = |(argument, operator, value): &(u8, SeccompCmpOp, u64)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), *value)
    };
    let conditions = conditions.iter().map(condition).collect::<Result<_, _>>()?;
    Ok(SeccompRule::new(conditions)?)
}

/// Denies the x32 interface: x86-64 has each call a second time, under a number with this bit,
/// which a filter on numbers would miss.
fn deny_x32() -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    let denied = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let statement = |code: u32, k: u32, jt: u8, jf: u8| sock_filter {
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt,
        jf,
        k,
    };
    vec![
        // The number is the first field of `seccomp_data`.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32_BIT, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, denied, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, ALLOW, 0, 0),
    ]
}
