//! Sources on servers that misbehave on purpose. Whatever they send, the update is refused with a
//! bounded message, within bounded time, memory and disk space, and all clients are answered.
//! `crates/fetch/tests/faults/` has the details of each protocol.

#[allow(dead_code, reason = "the tests of the fetcher use the rest")]
#[allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]
#[path = "../../../crates/fetch/tests/faults/double.rs"]
mod double;

mod attacks;
mod layers;
mod refused;
mod running;

/// Returns the SHA-256 of bytes in hex.
fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the `SHA256SUMS` of files.
fn checksums(files: &[(&str, &[u8])]) -> String {
    files.iter().map(|(path, bytes)| format!("{}  {path}\n", sha256(bytes))).collect()
}
