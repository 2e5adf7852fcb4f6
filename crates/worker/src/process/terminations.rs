//! Receives orders to terminate a group, on a dedicated descriptor and thread: the main thread
//! computes that group and reads nothing meanwhile.

use std::{
    fs::File,
    io::{self, Read},
    thread,
};

use tracing::{Span, info};

use crate::session;

/// Starts the thread. It reads group numbers of 8 bytes each until the other end closes.
pub(crate) fn listen(mut orders: File) -> io::Result<()> {
    let span = Span::current();
    thread::Builder::new().name("hangs".into()).spawn(move || {
        let _span = span.entered();
        let mut group = [0; 8];
        while orders.read_exact(&mut group).is_ok() {
            let group = u64::from_le_bytes(group);
            info!(group, "terminating group");
            session::terminate(group);
        }
    })?;
    Ok(())
}
