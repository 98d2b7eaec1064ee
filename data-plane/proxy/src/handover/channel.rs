//! Packets between a guard and a sidecar of one pod, over an abstract unix socket: seen inside one network namespace
//! only, and spoken with our own user or root only. One packet is a version byte, a kind byte, and for listening
//! sockets their descriptors. Doesn't know in which order packets come.

use std::{
    future::Future,
    io,
    net::TcpListener,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    task::{Context, Poll},
};

use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
};

use crate::{
    listeners::Listeners,
    sys::{recv_with_fds, send_with_fds},
};

/// What a guard tells a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Accept.
    Go,
    /// Stop accepting for now.
    Pause,
    /// Stop accepting for good and finish: another sidecar has taken over.
    Drain,
    /// Answer, if every worker does.
    Ping,
}

/// What a sidecar tells a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// Config and certificate are there.
    Ready,
    /// It accepts.
    Accepting,
    /// Every worker has answered.
    Pong,
    /// It ends on purpose.
    Leaving,
}

#[derive(Debug)]
pub(crate) enum Packet {
    Outbound(Vec<TcpListener>),
    Inbound(Vec<TcpListener>),
    /// The last of the three.
    Mesh(Vec<TcpListener>),
    Order(Order),
    Report(Report),
}

/// One connection between a guard and a sidecar. Of type `SOCK_SEQPACKET`, for which there is no type of its own:
/// never read or written as the stream that it looks like.
pub(crate) struct Channel(UnixStream);

/// Where the other side connects to.
pub(crate) struct Gate(UnixListener);

const VERSION: u8 = 1;

/// Longer than any packet, so that a longer one of a later version isn't cut where this one looks.
const PACKET: usize = 64;

mod kind {
    pub(super) const OUTBOUND: u8 = 1;
    pub(super) const INBOUND: u8 = 2;
    pub(super) const MESH: u8 = 3;
    pub(super) const GO: u8 = 16;
    pub(super) const PAUSE: u8 = 17;
    pub(super) const DRAIN: u8 = 18;
    pub(super) const PING: u8 = 19;
    pub(super) const READY: u8 = 32;
    pub(super) const ACCEPTING: u8 = 33;
    pub(super) const PONG: u8 = 34;
    pub(super) const LEAVING: u8 = 35;
}

fn seqpacket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn abstract_address(name: &str) -> io::Result<SockAddr> {
    SockAddr::unix(format!("\0{name}"))
}

/// Whether the process at the other end is one of ours.
fn is_ours(socket: &UnixStream) -> io::Result<bool> {
    let uid = socket.peer_cred()?.uid();
    let ours = uid == 0 || uid == geteuid().as_raw();
    if !ours {
        tracing::warn!(uid, "a process of another user is at the hand-over socket; ignored");
    }
    Ok(ours)
}

fn other(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

// === impl Gate ===

impl Gate {
    /// # Errors
    /// When another process listens under this name.
    pub(crate) fn bind(name: &str) -> io::Result<Self> {
        let socket = seqpacket()?;
        socket.bind(&abstract_address(name)?)?;
        socket.listen(16)?;
        Ok(Self(UnixListener::from_std(OwnedFd::from(socket).into())?))
    }

    /// The next connection of a process of ours.
    pub(crate) async fn accept(&self) -> io::Result<Channel> {
        loop {
            let (socket, _) = self.0.accept().await?;
            if is_ours(&socket)? {
                return Ok(Channel(socket));
            }
        }
    }
}

// === impl Channel ===

impl Channel {
    /// `None`: nobody of ours listens under this name.
    pub(crate) fn connect(name: &str) -> io::Result<Option<Self>> {
        let socket = seqpacket()?;
        match socket.connect(&abstract_address(name)?) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
            Err(error) => return Err(error),
        }
        let socket = UnixStream::from_std(OwnedFd::from(socket).into())?;
        Ok(is_ours(&socket)?.then_some(Self(socket)))
    }

    pub(crate) fn order(&self, order: Order) -> io::Result<()> {
        self.send(order.kind())
    }

    pub(crate) fn report(&self, report: Report) -> io::Result<()> {
        self.send(report.kind())
    }

    /// Shares every socket of `listeners` with the other side.
    pub(crate) fn share(&self, listeners: &Listeners) -> io::Result<()> {
        let shares =
            [(kind::OUTBOUND, &listeners.outbound), (kind::INBOUND, &listeners.inbound), (kind::MESH, &listeners.mesh)];
        for (kind, sockets) in shares {
            let fds: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
            send_with_fds(self.0.as_fd(), &[VERSION, kind], &fds)?;
        }
        Ok(())
    }

    /// Waits for all that the other side shares. A sidecar says before what it does with it.
    pub(crate) async fn shared(&self) -> io::Result<(Listeners, Option<Report>)> {
        let mut listeners = Listeners::default();
        let mut state = None;
        loop {
            match self.recv().await? {
                Packet::Outbound(sockets) => listeners.outbound = sockets,
                Packet::Inbound(sockets) => listeners.inbound = sockets,
                Packet::Mesh(sockets) => {
                    listeners.mesh = sockets;
                    return Ok((listeners, state));
                }
                Packet::Report(report) => state = Some(report),
                packet @ Packet::Order(_) => return Err(other(format!("{packet:?} before the listening sockets"))),
            }
        }
    }

    /// The next packet.
    ///
    /// # Errors
    /// At the end of the connection: [`io::ErrorKind::UnexpectedEof`].
    pub(crate) async fn recv(&self) -> io::Result<Packet> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next packet, or waking the task once there may be one.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Packet>> {
        loop {
            std::task::ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_io(Interest::READABLE, || receive(&self.0)) {
                Ok(Some(packet)) => return Poll::Ready(Ok(packet)),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Resolves with the first thing that comes on any of `channels`, and whose it was.
    pub(crate) fn recv_any<'a>(channels: &'a [(u64, Channel)]) -> impl Future<Output = (u64, io::Result<Packet>)> + 'a {
        std::future::poll_fn(move |cx| {
            for (id, channel) in channels {
                if let Poll::Ready(received) = channel.poll_recv(cx) {
                    return Poll::Ready((*id, received));
                }
            }
            Poll::Pending
        })
    }

    fn send(&self, kind: u8) -> io::Result<()> {
        // A full buffer means that the other side has read nothing for long: the same as an end.
        send_with_fds(self.0.as_fd(), &[VERSION, kind], &[])
    }
}

/// One packet; `None` for one that a later version added.
fn receive(socket: &UnixStream) -> io::Result<Option<Packet>> {
    let mut buffer = [0; PACKET];
    let (len, fds) = recv_with_fds(socket.as_fd(), &mut buffer)?;
    let (version, kind) = match buffer[..len] {
        [] => return Err(io::ErrorKind::UnexpectedEof.into()),
        [version, kind, ..] => (version, kind),
        [_] => return Err(other("a packet of one byte".into())),
    };
    if version != VERSION {
        return Err(other(format!("hand-over protocol version {version}, not {VERSION}")));
    }
    let listeners = fds.into_iter().map(TcpListener::from).collect::<Vec<_>>();
    for listener in &listeners {
        if !SockRef::from(listener).is_listener()? {
            return Err(other("a descriptor that is no listening socket".into()));
        }
    }
    Ok(match kind {
        kind::OUTBOUND => Some(Packet::Outbound(listeners)),
        kind::INBOUND => Some(Packet::Inbound(listeners)),
        kind::MESH => Some(Packet::Mesh(listeners)),
        kind => Order::of(kind).map(Packet::Order).or_else(|| Report::of(kind).map(Packet::Report)),
    })
}

// === impl Order, Report ===

impl Order {
    fn kind(self) -> u8 {
        match self {
            Self::Go => kind::GO,
            Self::Pause => kind::PAUSE,
            Self::Drain => kind::DRAIN,
            Self::Ping => kind::PING,
        }
    }

    fn of(kind: u8) -> Option<Self> {
        [Self::Go, Self::Pause, Self::Drain, Self::Ping].into_iter().find(|order| order.kind() == kind)
    }
}

impl Report {
    fn kind(self) -> u8 {
        match self {
            Self::Ready => kind::READY,
            Self::Accepting => kind::ACCEPTING,
            Self::Pong => kind::PONG,
            Self::Leaving => kind::LEAVING,
        }
    }

    fn of(kind: u8) -> Option<Self> {
        [Self::Ready, Self::Accepting, Self::Pong, Self::Leaving].into_iter().find(|report| report.kind() == kind)
    }
}
