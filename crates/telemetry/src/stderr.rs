//! Standard error as logs are written to it: a line that cannot be written at once is dropped and
//! counted, so that nobody who reads slowly, or not at all, holds up anything. Each line is handed to
//! the kernel when it is logged; so none is lost at whatever end, and no thread has to be waited
//! for. Used by both executables before they log anything.

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

/// Lines that this process could not write.
pub fn lines_dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Where lines go.
enum Sink {
    /// A pipe or a terminal, opened anew: the flag is not to concern whoever else has it open.
    Pipe(File),
    /// As journald's. There is no opening it anew, but each message may say the same.
    Socket,
    /// A pipe or a terminal that may not be opened anew, since it is another user's: it is asked
    /// whether there is room.
    Shared,
    /// A file, which never blocks for long.
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

/// Writes to standard error. Never fails: there is nobody to tell.
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
        // A part that was written is not gone on with: it may never fit.
        if written.ok() != Some(line.len()) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes as much as there is room for, and does not wait for more. Where there is some, there is
/// room for [`PIPE_BUF`] bytes, pipe(7).
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

/// Opens the sink. Later there may be no descriptor left.
pub(crate) fn open() {
    let _ = sink();
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_does_not_fit_a_pipe_of_somebody_else_is_left_out_and_waited_for_by_nobody() {
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
        assert_eq!(write_if_room(&writer, &line).unwrap(), line.len(), "there is room again");
    }
}
