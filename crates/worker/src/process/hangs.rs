//! Hears which group is to be terminated, on a descriptor and a thread of its own: the main thread
//! computes that very group and reads nothing meanwhile.

use std::{
    fs::File,
    io::{self, Read},
    thread,
};

use tracing::{Span, info};

use crate::session;

/// Starts the thread. It reads the numbers of groups, 8 bytes each, until the other end is closed.
pub(crate) fn listen(mut orders: File) -> io::Result<()> {
    let span = Span::current();
    thread::Builder::new().name("hangs".into()).spawn(move || {
        let _span = span.entered();
        let mut group = [0; 8];
        while orders.read_exact(&mut group).is_ok() {
            let group = u64::from_le_bytes(group);
            info!(group, "told to terminate a group");
            session::terminate(group);
        }
    })?;
    Ok(())
}
