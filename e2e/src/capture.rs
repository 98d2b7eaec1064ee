//! Everything that crosses the machine's bridge, packet by packet.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    sys::{
        socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

/// Room for a burst while the reader isn't scheduled.
const ROOM: usize = 32 << 20;
/// More packets than this find no place in that room.
const WAITING: usize = 100_000;

/// Packets are shown to a function, which keeps of them what it wants in an `S`.
pub(crate) struct Capture<S> {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Result<S>>,
}

impl<S: Send + 'static> Capture<S> {
    pub(crate) fn start(seen: S, look: fn(&mut S, &[u8])) -> Result<Self> {
        let packets = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        setsockopt(&packets, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100))?;
        // Beyond the system's limit only for the machine's own root.
        if setsockopt(&packets, sockopt::RcvBufForce, &ROOM).is_err() {
            setsockopt(&packets, sockopt::RcvBuf, &ROOM)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = thread::spawn(move || read(&packets, &stopped, seen, look));
        Ok(Self { stop, reader })
    }

    /// What has been kept; what was sent before this call has been looked at.
    pub(crate) fn finish(self) -> Result<S> {
        self.stop.store(true, Ordering::Relaxed);
        self.reader.join().map_err(|_| anyhow!("the capture panicked"))?
    }
}

/// Reads until it is told to stop and has read what was waiting then. Heartbeats and the like never end.
fn read<S>(packets: &OwnedFd, stop: &AtomicBool, mut seen: S, look: fn(&mut S, &[u8])) -> Result<S> {
    let (mut packet, mut since_stop) = (vec![0; 1 << 16], 0);
    loop {
        let stopped = stop.load(Ordering::Relaxed);
        match recv(packets.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(length) => look(&mut seen, &packet[..length]),
            Err(Errno::EAGAIN) if stopped => return Ok(seen),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => {}
            Err(error) => return Err(error).context("the capture"),
        }
        since_stop += usize::from(stopped);
        if since_stop > WAITING {
            return Ok(seen);
        }
    }
}
