//! Distinguishes temporary shortages from permanent refusals by the kernel.

use std::{error::Error, io};

use nix::errno::Errno;

/// Returns whether the kernel refused something that it may allow a moment later: threads,
/// descriptors, memory.
pub fn is_scarce(error: &(dyn Error + 'static)) -> bool {
    let errno = match error.downcast_ref::<io::Error>() {
        Some(error) => error.raw_os_error().map(Errno::from_raw),
        None => error.downcast_ref::<Errno>().copied(),
    };
    let scarce = [Errno::EAGAIN, Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM];
    errno.is_some_and(|errno| scarce.contains(&errno)) || error.source().is_some_and(is_scarce)
}
