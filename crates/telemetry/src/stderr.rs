//! Writes log lines to standard error without blocking. A line that cannot be written at once is
//! dropped and counted, so a slow or absent reader never delays onnxd. Each line goes to the kernel
//! when it is logged: none is lost on exit, and no thread needs to be joined. Both executables use
//! it for all logging.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::{
    libc::{O_NONBLOCK, PIPE_BUF},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, send},
    unistd,
};

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Returns the number of lines that this process dropped.
pub fn lines_dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Kind of standard error.
enum Sink {
    /// A pipe or terminal, reopened: `O_NONBLOCK` must not affect other processes that have it
    /// open.
    Pipe(File),
    /// A socket, such as journald's. It cannot be reopened, but each send can be non-blocking.
    Socket,
    /// Another user's pipe or terminal, which cannot be reopened. Polled for room before each
    /// write.
    Shared,
    /// A file, where writes block only briefly.
    File,
}

fn sink() -> &'static Sink {
    static SINK: OnceLock<Sink> = OnceLock::new();
    SINK.get_or_init(|| {
        let path = "/proc/self/fd/2";
        let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
        match kind {
            Ok(kind) if kind.is_socket() => Sink::Socket,
            Ok(kind) if kind.is_fifo() || kind.is_char_device() => {
                let opened = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(path);
                opened.map_or(Sink::Shared, Sink::Pipe)
            }
            _ => Sink::File,
        }
    })
}

/// Writes to standard error. Never returns an error, because there is nowhere to report one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = match sink() {
            Sink::Pipe(file) => (&*file).write(line),
            Sink::Shared => write_if_room(&io::stderr(), line),
            Sink::File => io::stderr().write_all(line).map(|()| line.len()),
            Sink::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(io::stderr().as_raw_fd(), line, flags).map_err(Into::into)
            }
        };
        // Do not write the rest of a partial line: it may never fit.
        if written.ok() != Some(line.len()) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes as much as fits without blocking. A writable pipe has room for [`PIPE_BUF`] bytes; see
/// pipe(7).
fn write_if_room(sink: &impl AsFd, line: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    for part in line.chunks(PIPE_BUF) {
        let mut room = [PollFd::new(sink.as_fd(), PollFlags::POLLOUT)];
        poll(&mut room, PollTimeout::ZERO)?;
        if !room[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT)) {
            break;
        }
        written += unistd::write(sink, part)?;
    }
    Ok(written)
}

/// Opens the sink early, while descriptors are available.
pub(crate) fn open() {
    let _ = sink();
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_full_shared_pipe_drops_lines_instead_of_blocking() {
        let (mut reader, writer) = io::pipe().unwrap();
        let line = [b'x'; 3 * PIPE_BUF - 7];
        let mut all = 0;
        loop {
            match write_if_room(&writer, &line).unwrap() {
                0 => break,
                some => all += some,
            }
        }
        assert!(all >= line.len());
        let mut read = vec![0; all];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(write_if_room(&writer, &line).unwrap(), line.len(), "the drained pipe has room");
    }
}
