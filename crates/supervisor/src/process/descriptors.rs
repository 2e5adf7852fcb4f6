//! How many files and sockets this process may have open, and how many of them connections may
//! take. Called once, at the start.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that connections leave to workers, files, updates and the admin interface, where
/// there are enough; half of all where there are not.
const RESERVE: u64 = 2048;
/// Connections at once unless told otherwise. Each may cost some kilobytes.
const CONNECTIONS: u64 = 16_384;

/// Raises the limit as far as this process may, and answers what it is then.
pub(crate) fn raise() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        return soft;
    }
    hard
}

/// How many connections there may be at once, of so many descriptors.
pub(crate) fn connections(descriptors: u64, wanted: Option<usize>) -> usize {
    let room = descriptors - RESERVE.min(descriptors / 2);
    let wanted = wanted.map_or(CONNECTIONS, |wanted| wanted as u64);
    if wanted > room && wanted != CONNECTIONS {
        tracing::warn!(wanted, possible = room, "--max-connections: too few descriptors");
    }
    usize::try_from(wanted.min(room)).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_to_others() {
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
