//! Limits of the control groups that this process belongs to, of version 2 and version 1, how much of them is
//! used, and what the kernel killed. [`machine`](super::machine) reads the limits at start, `GET /metrics` both.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
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

/// How often a CPU quota made a group wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Throttling {
    /// Periods in which the group ran.
    pub periods: u64,
    /// Periods in which the group used up its quota.
    pub throttled_periods: u64,
    /// How long its threads waited for the next period.
    pub throttled: Duration,
}

/// Returns the throttling of the group with the lowest CPU quota. All 0 without a quota.
pub(crate) fn throttling() -> Throttling {
    let quota = cpu_millis();
    let folder = quota.as_ref().and_then(|quota| quota.file.parent());
    folder.map_or_else(Throttling::default, |folder| throttling_of(&text(folder, "cpu.stat")))
}

/// Returns the memory used by the group with the lowest memory limit, or else by this process's group. Leaves
/// out cached files that the kernel drops first. 0 if the kernel does not say.
pub(crate) fn memory_used_bytes() -> u64 {
    let limited = memory_bytes().and_then(|limit| Some(limit.file.parent()?.to_owned()));
    let folder = limited.or_else(|| folders("memory").into_iter().next());
    folder.map_or(0, |folder| used_of(&folder))
}

fn used_of(folder: &Path) -> u64 {
    let [(usage, cached), (usage_v1, cached_v1)] =
        [("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")];
    let stat = text(folder, "memory.stat");
    let number = |name| text(folder, name).trim().parse().ok();
    let used = number(usage).or_else(|| number(usage_v1)).unwrap_or(0_u64);
    let dropped = field(&stat, cached_v1).or_else(|| field(&stat, cached)).unwrap_or(0);
    used.saturating_sub(dropped)
}

/// Parses `cpu.stat`. Version 2 counts microseconds and version 1 nanoseconds.
fn throttling_of(stat: &str) -> Throttling {
    let micros = field(stat, "throttled_usec").map(Duration::from_micros);
    let throttled = micros.or_else(|| field(stat, "throttled_time").map(Duration::from_nanos));
    Throttling {
        periods: field(stat, "nr_periods").unwrap_or(0),
        throttled_periods: field(stat, "nr_throttled").unwrap_or(0),
        throttled: throttled.unwrap_or_default(),
    }
}

/// Returns a number of a file with lines such as `nr_periods 3`.
fn field(stat: &str, name: &str) -> Option<u64> {
    let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(field, _)| *field == name)?.1.trim().parse().ok()
}

/// Returns the content of a file; empty if it cannot be read.
fn text(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_default()
}

/// Returns how many processes of this process's group the kernel killed because memory ran out.
pub(crate) fn oom_kills() -> Option<u64> {
    let kills = |folder: &Path, name| field(&text(folder, name), "oom_kill");
    folders("memory").iter().find_map(|folder| {
        kills(folder, "memory.events").or_else(|| kills(folder, "memory.oom_control"))
    })
}

/// Returns the lowest limit of this process's groups and their ancestors.
fn lowest(controller: &str, limit: impl Fn(&Path) -> Option<Limit>) -> Option<Limit> {
    let limits = folders(controller).into_iter().filter_map(|folder| limit(&folder));
    limits.min_by_key(|limit| limit.amount)
}

/// Returns the folders of this process's groups, each followed by those of its ancestors.
fn folders(controller: &str) -> Vec<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = groups.lines().filter_map(|line| folder(line, controller));
    // In a container, the path may be the host's. Then only the root of the mount can be read.
    let all = groups.flat_map(|(mount, path)| {
        path.ancestors().map(|path| mount.join(path)).collect::<Vec<_>>()
    });
    all.collect()
}

fn read(folder: &Path, name: &str, parse: impl Fn(&str) -> Option<u64>) -> Option<Limit> {
    let file = folder.join(name);
    let amount = parse(&fs::read_to_string(&file).ok()?)?;
    Some(Limit { amount, file })
}

/// Parses the quota and period in microseconds: `150000 100000`. The quota is `max` or -1 if unlimited.
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
        assert_eq!(field(events, "oom_kill"), Some(1));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", "oom_kill"), Some(7));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\n", "oom_kill"), None);
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
    fn throttling_is_read_in_the_units_of_both_versions() {
        let expected =
            Throttling { periods: 7, throttled_periods: 2, throttled: Duration::from_micros(1500) };
        let version_2 = "usage_usec 9\nnr_periods 7\nnr_throttled 2\nthrottled_usec 1500\n";
        assert_eq!(throttling_of(version_2), expected);
        let version_1 = "nr_periods 7\nnr_throttled 2\nthrottled_time 1500000\nnr_bursts 0\n";
        assert_eq!(throttling_of(version_1), expected);
        // The root group has no quota.
        assert_eq!(throttling_of("usage_usec 9\n"), Throttling::default());
    }

    #[test]
    fn cached_files_do_not_count_as_used() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name, text| fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(used_of(folder.path()), 0);
        write("memory.current", "1000\n");
        write("memory.stat", "anon 500\ninactive_file 400\n");
        assert_eq!(used_of(folder.path()), 600);
        fs::remove_file(folder.path().join("memory.current")).unwrap();
        write("memory.usage_in_bytes", "2000\n");
        // Version 1 counts children only in the fields with `total_`.
        write("memory.stat", "inactive_file 1\ntotal_inactive_file 500\n");
        assert_eq!(used_of(folder.path()), 1500);
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
