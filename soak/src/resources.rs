//! Resources that the server's processes use: I7, and their growth.

use std::{fs, time::Duration};

use e2e::{
    disk::Disk,
    processes::{self, resident_bytes},
    server::Server,
};

/// Allowed growth of descriptors and threads, for example of an admin connection or a pool that has
/// not shrunk yet.
const SPARE: usize = 6;
/// Allowed growth of the supervisor: memory its allocator keeps, and a record for each of the last
/// generations.
const SUPERVISOR_GROWTH_BYTES: u64 = 128 << 20;
/// Allowed growth of one worker.
const WORKER_GROWTH_BYTES: u64 = 128 << 20;

/// With fewer samples, a slope per hour is meaningless.
const SLOPE_SAMPLES: usize = 60;

/// Resources in use at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub descriptors: usize,
    pub threads: usize,
    pub children: usize,
    pub supervisor_bytes: u64,
    /// Resident memory of the largest worker.
    pub worker_bytes: u64,
    /// Unneeded entries of the state directory.
    pub left: Vec<String>,
    pub shared_memory: usize,
}

impl Resources {
    pub(crate) fn now(server: &Server) -> Self {
        let pid = server.pid();
        let children = processes::descendants(pid);
        Self {
            descriptors: processes::open_files(pid).len(),
            threads: processes::thread_cpus(pid).len(),
            children: children.len(),
            supervisor_bytes: resident_bytes(pid),
            worker_bytes: children.iter().map(|child| resident_bytes(child.pid)).max().unwrap_or(0),
            left: Disk::new(server.home()).leftovers(),
            shared_memory: fs::read_dir("/dev/shm").map_or(0, Iterator::count),
        }
    }

    /// Describes every resource that exceeds its allowed growth.
    pub(crate) fn above(&self, before: &Self) -> Vec<String> {
        let mut above = Vec::new();
        for (what, now, then) in [
            ("descriptors", self.descriptors, before.descriptors + SPARE),
            ("threads", self.threads, before.threads + SPARE),
            ("children", self.children, before.children),
            ("entries of /dev/shm", self.shared_memory, before.shared_memory),
        ] {
            if now > then {
                above.push(format!("{now} {what}, expected at most {then}"));
            }
        }
        for (what, now, then) in [
            (
                "the supervisor",
                self.supervisor_bytes,
                before.supervisor_bytes + SUPERVISOR_GROWTH_BYTES,
            ),
            ("a worker", self.worker_bytes, before.worker_bytes + WORKER_GROWTH_BYTES),
        ] {
            if now > then {
                above.push(format!("{what} uses {now} bytes, expected at most {then}"));
            }
        }
        above.extend(self.left.iter().map(|name| format!("{name} was left behind")));
        above
    }
}

/// Samples over time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<(Duration, Resources)>);

impl Samples {
    pub(crate) fn add(&mut self, at: Duration, resources: Resources) {
        self.0.push((at, resources));
    }

    pub(crate) fn last(&self) -> Option<&Resources> {
        self.0.last().map(|(_, resources)| resources)
    }

    /// Returns the growth per hour after the first quarter of the run, by least squares. Returns
    /// `None` if there are too few samples.
    pub(crate) fn slope_per_hour(&self, value: impl Fn(&Resources) -> f64) -> Option<f64> {
        let warm = &self.0[self.0.len() / 4..];
        if warm.len() < SLOPE_SAMPLES {
            return None;
        }
        let points: Vec<(f64, f64)> =
            warm.iter().map(|(at, one)| (at.as_secs_f64() / 3600.0, value(one))).collect();
        #[expect(clippy::cast_precision_loss, reason = "few samples")]
        let count = points.len() as f64;
        let mean_x = points.iter().map(|point| point.0).sum::<f64>() / count;
        let mean_y = points.iter().map(|point| point.1).sum::<f64>() / count;
        let above: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
        let below: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
        (below > 0.0).then(|| above / below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leaked_resources_are_named() {
        let before = Resources { descriptors: 20, children: 2, ..Resources::default() };
        assert_eq!(before.above(&before), [""; 0]);
        let after = Resources {
            descriptors: 40,
            children: 3,
            supervisor_bytes: 1 << 30,
            left: vec!["staging/x".into()],
            ..before.clone()
        };
        assert_eq!(after.above(&before).len(), 4, "{:?}", after.above(&before));
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "few descriptors")]
    fn growth_is_per_hour_and_skips_the_warm_up() {
        let mut samples = Samples::default();
        assert_eq!(samples.slope_per_hour(|one| one.descriptors as f64), None);
        for minute in 0..100 {
            let descriptors = if minute < 10 { 1000 } else { 2 * minute };
            let at = Duration::from_secs(60 * minute as u64);
            samples.add(at, Resources { descriptors, ..Resources::default() });
        }
        let slope = samples.slope_per_hour(|one| one.descriptors as f64).unwrap();
        assert!((slope - 120.0).abs() < 1e-6, "{slope}");
    }
}
