//! Pins the process to one CPU, so that workers neither migrate nor share. Runs before a second
//! thread exists: only threads started later inherit the pinning.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// Pins the calling thread, and threads it starts later, to `cpu`. On failure nothing is pinned and
/// the reason goes to the supervisor: serving slowly beats not serving.
pub(crate) fn pin(cpu: u16) -> Result<u16, String> {
    let mut wanted = CpuSet::new();
    wanted
        .set(usize::from(cpu))
        .and_then(|()| sched_setaffinity(SELF, &wanted))
        .map_err(|error| format!("failed to pin to CPU {cpu}: {error}"))?;
    // Read back: kernels, container runtimes and cpusets may report success and do something else.
    let actual = sched_getaffinity(SELF)
        .map_err(|error| format!("failed to read the CPU affinity: {error}"))?;
    if actual == wanted {
        Ok(cpu)
    } else {
        Err(format!("requested CPU {cpu}, got {:?}", members(&actual)))
    }
}

fn members(set: &CpuSet) -> Vec<usize> {
    (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
}

/// Returns whether threads of this process may run on a CPU, which may be outside its cpuset. Moves
/// the calling thread there for a moment.
pub(crate) fn may_use(cpu: u16) -> bool {
    let Ok(present) = sched_getaffinity(SELF) else { return false };
    let mut other = CpuSet::new();
    let allowed = other.set(cpu.into()).is_ok() && sched_setaffinity(SELF, &other).is_ok();
    allowed && sched_setaffinity(SELF, &present).is_ok()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn pinned_threads_and_their_children_stay_on_the_cpu() {
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
    fn pinning_to_a_missing_cpu_fails_and_changes_nothing() {
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
