//! Whether the pod's traffic is captured: the guard calls an address that nobody has, by the way that an app's call would
//! take. If its own pod's proxies answer, the rules are there; rules that are gone let it out, where nobody answers.
//! A guard may not mend them, since that takes NET_ADMIN: it says so, and the pod is unready.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use nix::errno::Errno;
use outrigger_wire::names::canary;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{interval, timeout},
};

use crate::stream::Io;

const INTERVAL: Duration = Duration::from_secs(3);
/// A busy pod may take a while to answer itself.
const PATIENCE: Duration = Duration::from_secs(2);
/// Calls in a row that nobody answers, until the rules count as gone.
const MISSES: u32 = 2;

/// Whether a connection was made by [`follow`]. Where it was captured, whoever accepts it owes it [`answer`].
pub(crate) fn is_canary(destination: SocketAddr) -> bool {
    destination.port() == canary::PORT
        && (destination.ip() == IpAddr::V4(canary::V4) || destination.ip() == IpAddr::V6(canary::V6))
}

/// Says that it was captured.
pub(crate) async fn answer<S: Io>(stream: &mut S) {
    // Who asked may be gone.
    let _ = stream.write_all(canary::ANSWER).await;
    let _ = stream.shutdown().await;
}

/// Keeps `captured` true to the fact, for ever.
pub(super) async fn follow(captured: watch::Sender<bool>) {
    let (mut ticks, mut misses) = (interval(INTERVAL), 0);
    loop {
        ticks.tick().await;
        let Some(answered) = is_captured().await else { continue };
        misses = if answered { 0 } else { misses + 1 };
        let now = answered || (misses < MISSES && *captured.borrow());
        if !captured.send_if_modified(|before| std::mem::replace(before, now) != now) {
            continue;
        }
        if now {
            tracing::info!("the pod's traffic is captured again");
        } else {
            tracing::error!(
                "nothing captures this pod's traffic: the nftables table inet outrigger isn't in force in its network \
                 namespace. Its apps go past their policies, so the pod is unready. Somebody has flushed the rules; delete \
                 the pod to have them back"
            );
        }
    }
}

/// `None`: nobody can say.
async fn is_captured() -> Option<bool> {
    let address = [IpAddr::V4(canary::V4), IpAddr::V6(canary::V6)].into_iter().find(|address| has_route(*address))?;
    verdict(call(address).await)
}

fn verdict(called: io::Result<bool>) -> Option<bool> {
    let Err(error) = called else { return called.ok() };
    match error.kind() {
        // Whoever accepted it had too many connections.
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => None,
        // All ports of the pod are in use.
        io::ErrorKind::AddrNotAvailable => None,
        _ => match error.raw_os_error().map(Errno::from_raw) {
            // All descriptors are.
            Some(Errno::EMFILE | Errno::ENFILE) => None,
            _ => Some(false),
        },
    }
}

/// Whether anything could leave this pod for there. What a network further away says of it is no answer to that.
fn has_route(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Of UDP this looks the route up, and sends nothing.
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, canary::PORT))).is_ok()
}

async fn call(address: IpAddr) -> io::Result<bool> {
    let called = async {
        let mut stream = TcpStream::connect((address, canary::PORT)).await?;
        let mut said = [0; canary::ANSWER.len()];
        stream.read_exact(&mut said).await?;
        Ok(said == canary::ANSWER)
    };
    timeout(PATIENCE, called).await.unwrap_or(Ok(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_never_left_says_nothing_of_the_rules() {
        let os = |errno: Errno| Err(io::Error::from_raw_os_error(errno as i32));
        for (called, expected) in [
            (Ok(true), Some(true)),
            (Ok(false), Some(false)),
            (os(Errno::ECONNREFUSED), Some(false)),
            (os(Errno::EHOSTUNREACH), Some(false)),
            (os(Errno::ECONNRESET), None),
            (os(Errno::EADDRNOTAVAIL), None),
            (os(Errno::EMFILE), None),
            (os(Errno::ENFILE), None),
        ] {
            assert_eq!(verdict(called), expected);
        }
    }

    #[test]
    fn only_both_make_a_canary() {
        for (address, expected) in [
            ("192.0.0.8:15024", true),
            ("[100::8]:15024", true),
            ("192.0.0.8:80", false),
            ("192.0.0.9:15024", false),
            ("[100::9]:15024", false),
        ] {
            assert_eq!(is_canary(address.parse().unwrap()), expected, "{address}");
        }
    }
}
