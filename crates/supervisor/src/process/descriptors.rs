//! Raises the limit on file descriptors, and derives the number of connections from it. Called once, at start.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors reserved for workers, files, updates and the admin interface. If the limit is small, half of it is
/// reserved instead.
const RESERVE: u64 = 2048;
/// Default of `--max-connections`. Each connection takes a few kilobytes.
const CONNECTIONS: u64 = 16_384;

/// Raises the limit on descriptors as far as this process may, and returns it.
pub(crate) fn raise() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        return soft;
    }
    hard
}

/// Returns the number of connections that a limit on descriptors allows, at most `wanted`.
pub(crate) fn connections(descriptors: u64, wanted: Option<usize>) -> usize {
    let available = descriptors - RESERVE.min(descriptors / 2);
    let wanted = wanted.map_or(CONNECTIONS, |wanted| wanted as u64);
    if wanted > available && wanted != CONNECTIONS {
        tracing::warn!(
            wanted,
            possible = available,
            "--max-connections exceeds the limit on file descriptors, raise it with ulimit -n or LimitNOFILE="
        );
    }
    usize::try_from(wanted.min(available)).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_workers_and_files() {
        for (descriptors, wanted, connections_max) in [
            (1 << 20, None, 16_384),
            (1 << 20, Some(100_000), 100_000),
            (20_000, None, 16_384),
            (20_000, Some(50), 50),
            (20_000, Some(50_000), 17_952),
            (1024, None, 512),
            (64, Some(64), 32),
            (0, None, 1),
        ] {
            let found = connections(descriptors, wanted);
            assert_eq!(found, connections_max, "{descriptors} {wanted:?}");
        }
    }
}
