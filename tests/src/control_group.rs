//! Control groups of tests, in which they start a server with the limits of a container.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{fixtures, wait::soon};

/// Where control groups are mounted. Version 1 has a folder for each controller.
const MOUNT: &str = "/sys/fs/cgroup";
/// The period of CPU quotas in microseconds.
const PERIOD_MICROS: u64 = 100_000;
/// How long the kernel may take to forget ended processes.
const REMOVAL_MAX: Duration = Duration::from_secs(5);

/// The limits of a container.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub memory_bytes: u64,
    /// Hundredths of a CPU, if limited.
    pub cpu_percent: Option<u64>,
}

/// A group of processes with limits, removed when dropped.
#[derive(Debug)]
pub struct ControlGroup {
    /// One folder in version 2, one for each controller in version 1.
    folders: Vec<PathBuf>,
}

impl ControlGroup {
    /// Creates a group. Returns why this machine does not let tests do so.
    ///
    /// # Errors
    /// The reason, for the message of a skipped test.
    pub fn create(limits: Limits) -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("onnxd-test-{}-{number}", process::id());
        let mount = Path::new(MOUNT);
        let mut group = Self { folders: Vec::new() };
        let result = match mount.join("cgroup.controllers").exists() {
            true => group.version_2(&mount.join(&name), limits),
            false => group.version_1(mount, &name, limits),
        };
        result.map(|()| group).map_err(|error| format!("cannot create a control group: {error}"))
    }

    fn version_2(&mut self, folder: &Path, limits: Limits) -> io::Result<()> {
        self.add(folder)?;
        fs::write(folder.join("memory.max"), limits.memory_bytes.to_string())?;
        // Otherwise the kernel would swap instead.
        let _ = fs::write(folder.join("memory.swap.max"), "0");
        if let Some(percent) = limits.cpu_percent {
            let quota = PERIOD_MICROS * percent / 100;
            fs::write(folder.join("cpu.max"), format!("{quota} {PERIOD_MICROS}"))?;
        }
        Ok(())
    }

    fn version_1(&mut self, mount: &Path, name: &str, limits: Limits) -> io::Result<()> {
        let memory = mount.join("memory").join(name);
        self.add(&memory)?;
        fs::write(memory.join("memory.limit_in_bytes"), limits.memory_bytes.to_string())?;
        if let Some(percent) = limits.cpu_percent {
            let cpu = mount.join("cpu").join(name);
            self.add(&cpu)?;
            fs::write(cpu.join("cpu.cfs_period_us"), PERIOD_MICROS.to_string())?;
            let quota = PERIOD_MICROS * percent / 100;
            fs::write(cpu.join("cpu.cfs_quota_us"), quota.to_string())?;
        }
        Ok(())
    }

    fn add(&mut self, folder: &Path) -> io::Result<()> {
        fs::create_dir(folder)?;
        self.folders.push(folder.to_owned());
        Ok(())
    }

    /// Writes a script below `folder` that starts the supervisor in this group.
    ///
    /// # Panics
    /// Panics if the file cannot be written.
    pub fn launcher(&self, folder: &Path) -> PathBuf {
        let script = folder.join("in-control-group");
        let enter = |folder: &PathBuf| format!("echo $$ > {}/cgroup.procs\n", folder.display());
        let enter: String = self.folders.iter().map(enter).collect();
        let onnxd = fixtures::onnxd();
        let text = format!("#!/bin/sh\nset -e\n{enter}exec {} \"$@\"\n", onnxd.display());
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        script
    }

    /// Returns how many of its processes the kernel has killed because memory ran out.
    ///
    /// # Panics
    /// Panics if the kernel does not tell.
    pub fn out_of_memory_kills(&self) -> u64 {
        let read = |name| fs::read_to_string(self.folders[0].join(name));
        let text = read("memory.events").or_else(|_| read("memory.oom_control")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).unwrap()
    }

    /// Returns the most memory that its processes have used at once, if the kernel tells.
    pub fn peak_bytes(&self) -> Option<u64> {
        let read = |name| fs::read_to_string(self.folders[0].join(name));
        let text = read("memory.peak").or_else(|_| read("memory.max_usage_in_bytes")).ok()?;
        text.trim().parse().ok()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            soon(REMOVAL_MAX, || fs::remove_dir(folder).is_ok());
        }
    }
}
