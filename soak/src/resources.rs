//! What the server's processes take: I7, and how it grows.

use std::{fs, time::Duration};

use e2e::{
    disk::Disk,
    processes::{self, resident_bytes},
    server::Server,
};

/// Descriptors and threads that may be there beside those before, such as an admin connection's or a
/// pool's that has not shrunk yet.
const SPARE: usize = 6;
/// What the supervisor may have kept of all that it was sent: its allocator's, and a record for each
/// of the last generations.
const SUPERVISOR_GROWTH_BYTES: u64 = 128 << 20;
/// The same of one worker.
const WORKER_GROWTH_BYTES: u64 = 128 << 20;

/// Fewer samples say nothing about an hour.
const SLOPE_SAMPLES: usize = 60;

/// What is there at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub descriptors: usize,
    pub threads: usize,
    pub children: usize,
    pub supervisor_bytes: u64,
    /// Of the largest worker.
    pub worker_bytes: u64,
    /// In the state directory without need.
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
            left: Disk::of(server.home()).leftovers(),
            shared_memory: fs::read_dir("/dev/shm").map_or(0, Iterator::count),
        }
    }

    /// What there is more of than there was, and than there may be.
    pub(crate) fn above(&self, before: &Self) -> Vec<String> {
        let mut above = Vec::new();
        for (what, now, then) in [
            ("descriptors", self.descriptors, before.descriptors + SPARE),
            ("threads", self.threads, before.threads + SPARE),
            ("children", self.children, before.children),
            ("entries of /dev/shm", self.shared_memory, before.shared_memory),
        ] {
            if now > then {
                above.push(format!("{now} {what}, at most {then} were allowed"));
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
                above.push(format!("{what} has {now} bytes, at most {then} were allowed"));
            }
        }
        above.extend(self.left.iter().map(|name| format!("{name} is left")));
        above
    }
}

/// Samples over time, and what they grow by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<(Duration, Resources)>);

impl Samples {
    pub(crate) fn add(&mut self, at: Duration, resources: Resources) {
        self.0.push((at, resources));
    }

    pub(crate) fn last(&self) -> Option<&Resources> {
        self.0.last().map(|(_, resources)| resources)
    }

    /// By how much something grows in an hour, after the first quarter of the run, by the method of
    /// least squares. None where that is too little to say.
    pub(crate) fn slope_per_hour(&self, of: impl Fn(&Resources) -> f64) -> Option<f64> {
        let warm = &self.0[self.0.len() / 4..];
        if warm.len() < SLOPE_SAMPLES {
            return None;
        }
        let points: Vec<(f64, f64)> =
            warm.iter().map(|(at, one)| (at.as_secs_f64() / 3600.0, of(one))).collect();
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
    fn what_is_left_is_named_and_what_was_there_is_not() {
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
    fn growth_is_per_hour_and_what_came_first_does_not_count() {
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
