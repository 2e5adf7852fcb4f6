//! Numbered places at which a test may have the supervisor killed, to see that the next start
//! finds the old generation or the new one. In release builds they are nothing.

/// Kills this process if the environment says `ONNXD_CRASH_POINT=number`.
#[cfg(debug_assertions)]
pub(super) fn point(number: u32) {
    let asked = std::env::var("ONNXD_CRASH_POINT").ok().and_then(|asked| asked.parse().ok());
    if asked == Some(number) {
        // What a power cut or the kernel does: no destructor runs.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGKILL);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(super) fn point(_number: u32) {}
