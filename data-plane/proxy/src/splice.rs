//! Bytes between two bare sockets that this process never sees: the kernel moves them through a pipe. Pays for bulk
//! alone, as it takes two calls where a small message would take one each way.

use std::{
    cell::Cell,
    io,
    os::fd::{AsFd, OwnedFd},
    task::{Context, Poll, ready},
};

use nix::{
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    unistd::pipe2,
};
use tokio::{io::Interest, net::TcpStream};

/// What is on its way within the kernel.
pub(crate) struct Pipe {
    entry: OwnedFd,
    exit: OwnedFd,
    held: usize,
    /// Moves in a row that weren't worth it.
    small: u8,
}

/// As much as one pipe holds.
const CAPACITY: i32 = 512 * 1024;
/// Less than this isn't worth a pipe.
const BULK: usize = 16 * 1024;
const PATIENCE: u8 = 4;

/// As many this thread may have at once, from now on.
pub(crate) fn allow(pipes: usize) {
    MOST.set(pipes);
}

thread_local! {
    static OPEN: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(256) };
}

impl Pipe {
    /// `None` without free descriptors, or when there are as many pipes as may be.
    pub(crate) fn new() -> Option<Self> {
        if OPEN.get() >= MOST.get() {
            return None;
        }
        let (exit, entry) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        fcntl(&entry, FcntlArg::F_SETPIPE_SZ(CAPACITY)).ok()?;
        OPEN.set(OPEN.get() + 1);
        Some(Self { entry, exit, held: 0, small: 0 })
    }

    /// Takes what has come into the empty pipe; says how much that is, 0 at the end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || step(from, &self.entry, CAPACITY.unsigned_abs() as usize)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(moved) => {
                    self.held = moved;
                    self.small = if moved < BULK { self.small + 1 } else { 0 };
                    return Poll::Ready(Ok(moved));
                }
            }
        }
    }

    /// Sends all that is in the pipe.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        while self.held > 0 {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || step(&self.exit, to, self.held)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => self.held -= moved,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// So little has come lately that copies cost less.
    pub(crate) fn is_wasted(&self) -> bool {
        self.small >= PATIENCE
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = OPEN.try_with(|open| open.set(open.get().saturating_sub(1)));
    }
}

fn step<A: AsFd, B: AsFd>(from: A, to: B, most: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    Ok(splice(from, None, to, None, most, flags)?)
}
