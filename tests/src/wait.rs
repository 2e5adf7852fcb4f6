//! Waiting for something to become true. Tests never assert how fast something is, only that it
//! happens within a generous time.

use std::time::{Duration, Instant};

/// Asks again and again until `probe` has an answer.
///
/// # Panics
/// It has none after `patience`; the message names what was waited for.
pub async fn eventually<T>(
    what: &str,
    patience: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(begin.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether `probe` becomes true within `patience`.
pub fn soon(patience: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if probe() {
            return true;
        }
        if begin.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
