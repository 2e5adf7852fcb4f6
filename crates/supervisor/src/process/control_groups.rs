//! Limits of the control groups that this process belongs to, of version 2 and version 1. Read at start
//! by [`machine`](super::machine).

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

/// Returns the lowest limit of this process's groups and their ancestors.
fn lowest(controller: &str, limit: impl Fn(&Path) -> Option<Limit>) -> Option<Limit> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let folders = groups.lines().filter_map(|line| folder(line, controller));
    // In a container, the path may be the host's. Then only the root of the mount can be read.
    let limits = folders.flat_map(|(mount, path)| {
        path.ancestors().filter_map(|path| limit(&mount.join(path))).collect::<Vec<_>>()
    });
    limits.min_by_key(|limit| limit.amount)
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
