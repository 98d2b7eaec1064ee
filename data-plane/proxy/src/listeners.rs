//! Sockets: the pod's listening ones, and what is asked of the kernel about accepted and new ones.
//! Decides nothing about what a connection carries.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    time::Duration,
};

use outrigger_wire::names::ports;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

/// Length of the kernel's queue of connections that nobody has accepted yet, per socket. It bridges the moment
/// between one process's death and another's first accept.
const BACKLOG: i32 = 4096;

/// More would not fit into one hand-over message per port (two address families each).
pub const MAX_WORKERS: usize = crate::sys::MAX_FDS / 2;

/// The ports that are listened on in a pod's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Redirected outbound traffic.
    pub outbound: u16,
    /// Redirected inbound plaintext.
    pub inbound: u16,
    /// mTLS between proxies.
    pub mesh: u16,
}

/// Listening sockets: per port and address family one for each worker, non-blocking and close-on-exec.
/// A connection waits in the queue of one socket, so every socket must have somebody who accepts from it.
#[derive(Debug, Default)]
pub struct Listeners {
    pub outbound: Vec<TcpListener>,
    pub inbound: Vec<TcpListener>,
    pub mesh: Vec<TcpListener>,
}

/// Listens on every port of `ports`.
///
/// # Errors
/// When a port can't be had, or for more than [`MAX_WORKERS`] workers.
pub fn bind(ports: Ports, workers: usize) -> io::Result<Listeners> {
    Ok(Listeners {
        outbound: bind_port(ports.outbound, workers)?,
        inbound: bind_port(ports.inbound, workers)?,
        mesh: bind_port(ports.mesh, workers)?,
    })
}

/// Listens on one port, with one `SO_REUSEPORT` socket per worker and address family. Without IPv6 on this
/// machine there are those of IPv4 alone. Port 0 takes a free one, the same for all.
///
/// # Errors
/// When the port can't be had, or for more than [`MAX_WORKERS`] workers.
pub fn bind_port(port: u16, workers: usize) -> io::Result<Vec<TcpListener>> {
    if workers == 0 || workers > MAX_WORKERS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{workers} workers, at most {MAX_WORKERS}")));
    }
    let mut port = port;
    let mut listeners = Vec::with_capacity(workers * 2);
    for _ in 0..workers {
        let listener = listen((Ipv4Addr::UNSPECIFIED, port).into())?;
        port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    for _ in 0..workers {
        match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
            Ok(listener) => listeners.push(listener),
            Err(error) if no_ipv6(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(listeners)
}

/// Listens on one address. The wildcard of IPv6 means all addresses of both families, and those of IPv4 alone where
/// there is no IPv6.
///
/// # Errors
/// When the address can't be had.
pub fn bind_address(address: SocketAddr) -> io::Result<TcpListener> {
    let everywhere = address.ip() == Ipv6Addr::UNSPECIFIED;
    let listening = socket(address).and_then(|socket| {
        if everywhere {
            socket.set_only_v6(false)?;
        }
        bound(socket, address)
    });
    match listening {
        Err(error) if everywhere && no_ipv6(&error) => bind_address((Ipv4Addr::UNSPECIFIED, address.port()).into()),
        listener => listener,
    }
}

/// Where the peer of a redirected connection wanted to go. Without a redirection: the address it reached.
///
/// # Errors
/// When the connection is gone already.
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    let socket = SockRef::from(stream);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    Ok(original.ok().and_then(|address| address.as_socket()).unwrap_or(local))
}

/// A socket that will connect to `address`: small writes aren't held back, and with `mark` the pod's redirection
/// lets it pass.
///
/// # Errors
/// Without a free descriptor, or without the right to set a mark.
pub fn upstream_socket(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    keep_alive(&socket);
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    Ok(socket)
}

/// Lets the kernel notice a peer that has vanished: after two minutes at most.
pub(crate) fn keep_alive<S: AsFd>(socket: &S) {
    let probes =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    // A socket that refuses the option still works.
    let _ = SockRef::from(socket).set_tcp_keepalive(&probes);
}

/// Lets the kernel give a connection up whose peer acknowledges nothing any more. Only where peers always read: one that
/// takes its time counts as gone, too.
pub(crate) fn give_up_after<S: AsFd>(socket: &S, silence: Duration) {
    // A socket that refuses the option still works.
    let _ = SockRef::from(socket).set_tcp_user_timeout(Some(silence));
}

/// Connects to the app of this pod, at the address at which the pod was called. Never on loopback: an app that
/// listens there alone, our own admin interface among them, isn't for others.
///
/// # Errors
/// When the app doesn't answer.
pub async fn connect_app(destination: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    upstream_socket(destination, mark)?.connect(destination).await
}

/// Makes the end of `stream` a reset, so that the peer sees a failure and not a short answer; or doesn't any more.
pub(crate) fn reset_at_end(stream: &TcpStream, reset: bool) {
    // A socket that refuses the option is closed anyhow.
    let _ = SockRef::from(stream).set_linger(reset.then_some(Duration::ZERO));
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    bound(socket, address)
}

/// A socket of one address family.
fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bound(socket: Socket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn no_ipv6(error: &io::Error) -> bool {
    use nix::errno::Errno;
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT)
    )
}

// === impl Ports ===

impl Default for Ports {
    fn default() -> Self {
        Self { outbound: ports::OUTBOUND, inbound: ports::INBOUND, mesh: ports::MESH }
    }
}

impl Ports {
    pub fn contain(&self, port: u16) -> bool {
        [self.outbound, self.inbound, self.mesh].contains(&port)
    }
}

// === impl Listeners ===

impl Listeners {
    /// A second handle on every socket; the queues are shared.
    ///
    /// # Errors
    /// Without free descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.for_worker(0, 1)
    }

    /// Handles on the sockets that `worker` (counted from 0) of `workers` serves. Together the workers serve all,
    /// whatever number of workers they were bound for.
    ///
    /// # Errors
    /// Without free descriptors.
    pub fn for_worker(&self, worker: usize, workers: usize) -> io::Result<Self> {
        let share = |listeners: &[TcpListener]| {
            listeners.iter().skip(worker).step_by(workers).map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()
        };
        Ok(Self { outbound: share(&self.outbound)?, inbound: share(&self.inbound)?, mesh: share(&self.mesh)? })
    }

    /// The ports that these sockets listen on; 0 where there is none.
    ///
    /// # Errors
    /// When a socket can't be asked.
    pub fn ports(&self) -> io::Result<Ports> {
        let port = |listeners: &[TcpListener]| {
            listeners.first().map_or(Ok(0), |listener| listener.local_addr().map(|address| address.port()))
        };
        Ok(Ports { outbound: port(&self.outbound)?, inbound: port(&self.inbound)?, mesh: port(&self.mesh)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_has_exactly_one_worker() {
        let all = bind(Ports { outbound: 0, inbound: 0, mesh: 0 }, 3).unwrap();
        assert!(all.outbound.len() == 3 || all.outbound.len() == 6);
        for workers in 1..5 {
            let shares: Vec<_> = (0..workers).map(|worker| all.for_worker(worker, workers).unwrap()).collect();
            assert_eq!(shares.iter().map(|share| share.outbound.len()).sum::<usize>(), all.outbound.len());
            assert_eq!(shares.iter().map(|share| share.mesh.len()).sum::<usize>(), all.mesh.len());
        }
    }

    #[test]
    fn one_port_for_all_families_and_workers() {
        let all = bind_port(0, 2).unwrap();
        let port = all[0].local_addr().unwrap().port();
        assert_ne!(port, 0);
        assert!(all.iter().all(|listener| listener.local_addr().unwrap().port() == port));
        assert!(bind_port(0, 0).is_err());
        assert!(bind_port(0, MAX_WORKERS + 1).is_err());
    }

    #[test]
    fn the_wildcard_of_ipv6_means_every_address() {
        let all = bind_address((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = all.local_addr().unwrap().port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(bind_address((Ipv4Addr::LOCALHOST, port).into()).is_err(), "nobody shares it");
        let one = bind_address((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        assert!(one.local_addr().unwrap().is_ipv4());
    }

    #[tokio::test]
    async fn without_a_redirection_the_destination_is_the_address_reached() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::spawn(async move { upstream_socket(address, None).unwrap().connect(address).await });
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(original_destination(&stream).unwrap(), address);
        assert!(client.await.unwrap().unwrap().nodelay().unwrap());
    }
}
