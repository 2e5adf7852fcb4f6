//! Limits and out-of-memory kills of the control groups that this process belongs to, of version 2 and
//! version 1. [`machine`](super::machine) reads the limits at start.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where control groups are mounted. Version 1 has a folder for each controller.
const MOUNT: &str = "/sys/fs/cgroup";

/// A limit and the file that sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub amount: u64,
    /// The path of the file.
    pub file: PathBuf,
}

/// Returns the lowest memory limit in bytes.
pub(crate) fn memory_bytes() -> Option<Limit> {
    let bytes = |text: &str| text.trim().parse().ok();
    lowest("memory", |folder| {
        read(folder, "memory.max", bytes).or_else(|| read(folder, "memory.limit_in_bytes", bytes))
    })
}

/// Returns the lowest CPU quota in thousandths of a CPU.
pub(crate) fn cpu_millis() -> Option<Limit> {
    lowest("cpu", |folder| {
        read(folder, "cpu.max", cpu_max).or_else(|| {
            let period = fs::read_to_string(folder.join("cpu.cfs_period_us")).ok()?;
            read(folder, "cpu.cfs_quota_us", |quota| cpu_max(&format!("{quota} {period}")))
        })
    })
}

/// Returns how many processes of this process's group the kernel killed because memory ran out.
pub(crate) fn oom_kills() -> Option<u64> {
    let count = |path: PathBuf| oom_kill(&fs::read_to_string(path).ok()?);
    folders("memory").into_iter().find_map(|folder| {
        count(folder.join("memory.events")).or_else(|| count(folder.join("memory.oom_control")))
    })
}

/// Parses the line `oom_kill 1` among others.
fn oom_kill(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Returns the lowest limit of this process's groups and their ancestors.
fn lowest(controller: &str, limit: impl Fn(&Path) -> Option<Limit>) -> Option<Limit> {
    folders(controller).iter().filter_map(|folder| limit(folder)).min_by_key(|limit| limit.amount)
}

/// Returns the folders of this process's groups and of their ancestors, which come later.
fn folders(controller: &str) -> Vec<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let folders = groups.lines().filter_map(|line| folder(line, controller));
    // In a container, the path may be the host's. Then only the root of the mount can be read.
    let with_ancestors = |(mount, path): (PathBuf, PathBuf)| -> Vec<_> {
        path.ancestors().map(|path| mount.join(path)).collect()
    };
    folders.flat_map(with_ancestors).collect()
}

fn read(folder: &Path, name: &str, parse: impl Fn(&str) -> Option<u64>) -> Option<Limit> {
    let file = folder.join(name);
    let amount = parse(&fs::read_to_string(&file).ok()?)?;
    Some(Limit { amount, file })
}

/// Parses the quota and period in microseconds: `150000 100000`. The quota is `max` or -1 if there is none.
fn cpu_max(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    let (quota, period) = (words.next()?.parse::<u64>().ok()?, words.next()?.parse::<u64>().ok()?);
    quota.saturating_mul(1000).checked_div(period).filter(|millis| *millis > 0)
}

/// Parses a line of cgroups(7): `4:memory:/a/b`, or `0::/a/b` for version 2. Returns the mount point and the path
/// below it, if the group limits what `controller` controls.
fn folder(line: &str, controller: &str) -> Option<(PathBuf, PathBuf)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let mount = match controllers {
        "" => PathBuf::from(MOUNT),
        _ => controllers
            .split(',')
            .find(|name| *name == controller)
            .map(|_| Path::new(MOUNT).join(controller))?,
    };
    let path = path.strip_prefix('/').filter(|path| !path.contains(".."))?;
    Some((mount, path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_controller() {
        let found = |line| {
            let (mount, path) = folder(line, "memory")?;
            Some((mount.to_str()?.to_owned(), path.to_str()?.to_owned()))
        };
        let expect = |mount: &str, path: &str| Some((mount.to_owned(), path.to_owned()));
        assert_eq!(found("0::/user.slice/a.scope"), expect(MOUNT, "user.slice/a.scope"));
        assert_eq!(found("4:memory:/a"), expect("/sys/fs/cgroup/memory", "a"));
        assert_eq!(found("4:cpu,memory:/a:b"), expect("/sys/fs/cgroup/memory", "a:b"));
        assert_eq!(found("7:pids:/"), None);
        assert_eq!(found("0::/../../x"), None);
        assert_eq!(found("nonsense"), None);
    }

    #[test]
    fn out_of_memory_kills_are_read_from_both_versions() {
        let events = "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(oom_kill(events), Some(1));
        assert_eq!(oom_kill("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(oom_kill("oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    fn quotas_are_thousandths_of_a_cpu() {
        assert_eq!(cpu_max("150000 100000\n"), Some(1500));
        assert_eq!(cpu_max("max 100000\n"), None);
        assert_eq!(cpu_max("-1\n 100000\n"), None);
        assert_eq!(cpu_max("100000 0"), None);
        assert_eq!(cpu_max(""), None);
    }

    #[test]
    fn the_lowest_limit_of_all_ancestors_counts() {
        let limit = |folder: &Path| {
            let amount = folder.components().count() as u64;
            (amount < 6).then(|| Limit { amount, file: folder.to_owned() })
        };
        // Every process has a group, if groups are mounted at all.
        if let Some(lowest) = lowest("memory", limit) {
            assert!(lowest.file.starts_with(MOUNT) && lowest.amount <= 5, "{lowest:?}");
        }
    }
}
