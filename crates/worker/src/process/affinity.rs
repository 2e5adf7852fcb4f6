//! Ties the process to one CPU, so that workers neither move nor share. Called by `main` before
//! there is a second thread, because only threads that are started later inherit the choice.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// Runs the calling thread, and what it starts from now on, on `cpu` alone. On failure nothing
/// is pinned, and the reason goes to the supervisor: serving slower is better than not at all.
pub(crate) fn pin(cpu: u16) -> Result<u16, String> {
    let mut wanted = CpuSet::new();
    wanted
        .set(usize::from(cpu))
        .and_then(|()| sched_setaffinity(SELF, &wanted))
        .map_err(|error| format!("cannot run on CPU {cpu}: {error}"))?;
    // Read back: a kernel, a container runtime or a cpuset may answer yes and do something else.
    let actual = sched_getaffinity(SELF)
        .map_err(|error| format!("cannot find out which CPUs are in use: {error}"))?;
    if actual == wanted {
        Ok(cpu)
    } else {
        Err(format!("asked for CPU {cpu} and was given {:?}", members(&actual)))
    }
}

fn members(set: &CpuSet) -> Vec<usize> {
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}

/// Whether a thread of this process may run on a CPU: it may have left the process's cpuset. The
/// calling thread runs there for a moment.
pub(crate) fn may_use(cpu: u16) -> bool {
    let Ok(present) = sched_getaffinity(SELF) else { return false };
    let mut other = CpuSet::new();
    let may = other.set(cpu.into()).is_ok() && sched_setaffinity(SELF, &other).is_ok();
    may && sched_setaffinity(SELF, &present).is_ok()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_pinned_thread_and_what_it_starts_run_on_that_cpu_alone() {
        let last = *members(&sched_getaffinity(SELF).unwrap()).last().unwrap();
        let cpu = u16::try_from(last).unwrap();
        thread::spawn(move || {
            assert_eq!(pin(cpu), Ok(cpu));
            let started = thread::spawn(|| sched_getaffinity(SELF).unwrap()).join().unwrap();
            assert_eq!(members(&started), [last]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_a_reason_and_changes_nothing() {
        thread::spawn(|| {
            let before = sched_getaffinity(SELF).unwrap();
            for cpu in [1000, u16::MAX] {
                let reason = pin(cpu).unwrap_err();
                assert!(reason.contains(&format!("CPU {cpu}")), "{reason}");
            }
            assert!(sched_getaffinity(SELF).unwrap() == before);
        })
        .join()
        .unwrap();
    }
}
