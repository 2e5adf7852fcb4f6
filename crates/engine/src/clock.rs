//! Waits for the next deadline of a pure state machine. Called by the loops that drive one.

use std::time::Instant;

use tokio::time;

/// Waits until `deadline`, or forever without one.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
