//! Waits for conditions. Tests never assert speed, only that something happens within a generous
//! time limit.

use std::time::{Duration, Instant};

/// Calls `probe` repeatedly until it returns a value.
///
/// # Panics
/// Panics after `timeout`, with `what` in the message.
pub async fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < timeout, "timed out after {timeout:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns whether `probe` becomes true within `timeout`.
pub fn soon(timeout: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if probe() {
            return true;
        }
        if start.elapsed() >= timeout {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
