//! A worker that misbehaves once. It sits between the supervisor and a real worker and relays
//! messages, except for one fault. Tests pass it to `onnxd serve` as `--worker-binary` and name the
//! fault in a file next to `TMPDIR`.
//!
//! Only the first process of worker 0 misbehaves. All others, including checkers, exec the real
//! executable.

mod faults;
mod inherited;

use std::{
    env,
    error::Error,
    fs::File,
    io,
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{self, Command, Stdio},
    thread,
};

use command_fds::{CommandFdExt, FdMapping};
use e2e::fake::{CLAIM, Order};
use onnxd_proto::wire::{
    frame::{self, Direction, Frame},
    message::{self, ToWorker},
};

use crate::faults::Liar;

fn main() -> Result<(), Box<dyn Error>> {
    let tmp = env::var_os("TMPDIR").ok_or("TMPDIR is not set")?;
    let home = Path::new(&tmp).parent().ok_or("TMPDIR has no parent")?;
    let order = Order::read(home)?;
    let arguments: Vec<String> = env::args().skip(1).collect();
    let first = arguments.starts_with(&["serve".into(), "--worker".into(), "0".into()])
        && File::create_new(home.join(CLAIM)).is_ok();
    if !first {
        return Err(Command::new(&order.real).arg0("onnxd-worker").args(arguments).exec().into());
    }
    let (supervisor, page) = inherited::take();
    let (ours, theirs) = UnixStream::pair()?;
    // The real worker's descriptor 3 is the other end of the pair. It must not inherit the
    // supervisor's socket.
    let mut real = Command::new(&order.real);
    let mappings = vec![
        FdMapping { parent_fd: theirs.into(), child_fd: 3 },
        FdMapping { parent_fd: page.try_clone()?, child_fd: 4 },
    ];
    real.arg0("onnxd-worker").args(arguments).stdin(Stdio::null()).fd_mappings(mappings)?;
    let _child = real.spawn()?;
    drop(real);
    listen(&supervisor, &ours)?;
    speak(supervisor, ours, page, &order)?;
    Ok(())
}

/// Relays messages from the supervisor. Exits when the supervisor closes the socket.
fn listen(supervisor: &UnixStream, real: &UnixStream) -> io::Result<()> {
    let (mut from, mut to) = (supervisor.try_clone()?, real.try_clone()?);
    thread::spawn(move || {
        // After any error, nothing more can be relayed.
        let _ = welcome(&mut from, &mut to).and_then(|()| io::copy(&mut from, &mut to));
        // The real worker sees a closed socket and exits.
        let _ = to.shutdown(Shutdown::Both);
        process::exit(0);
    });
    Ok(())
}

/// Relays the first message without the admin socket. Otherwise the real worker would mistake our
/// end for the supervisor's and remove it.
fn welcome(from: &mut UnixStream, to: &mut UnixStream) -> io::Result<()> {
    let mut frame = Frame::default();
    frame.read(from, Direction::ToWorker)?;
    let ToWorker::Welcome(mut welcome) = message::decode(&frame.control)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    welcome.admin_socket.inode = 0;
    let control = message::encode(&ToWorker::Welcome(welcome))?;
    frame::write(to, Direction::ToWorker, frame.id, &control, &[&frame.payload])
}

/// Relays messages from the real worker, or a faulty one instead.
fn speak(
    supervisor: UnixStream,
    mut real: UnixStream,
    page: OwnedFd,
    order: &Order,
) -> io::Result<()> {
    let mut liar = Liar::new(supervisor, page, order)?;
    let mut frame = Frame::default();
    while frame.read(&mut real, Direction::FromWorker)? {
        liar.relay(&frame)?;
    }
    Ok(())
}
