//! Numbered crash points at which tests kill the supervisor, to check that the next start finds
//! either the old generation or the new one. No-ops in release builds.

/// Kills this process if `ONNXD_CRASH_POINT` is set to `number`.
#[cfg(debug_assertions)]
pub(super) fn point(number: u32) {
    let requested = std::env::var("ONNXD_CRASH_POINT").ok().and_then(|text| text.parse().ok());
    if requested == Some(number) {
        // Like a power cut: no destructor runs.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL);
    }
}

/// Does nothing in release builds.
#[cfg(not(debug_assertions))]
pub(super) fn point(_number: u32) {}
