//! How listening sockets pass between the guard and the sidecars of a pod, so that they outlive every single process.
//! A connection waits in the queue of its socket, not of a process: whoever holds the socket can accept it.
//!
//! Here is the sidecar's side, [`Session`]; [`Host`] is the guard's. Who may accept is decided in `guard::state`, never here.

use std::{convert::Infallible, future::Future, io, time::Duration};

use futures_util::future::{Either, pending};
use outrigger_wire::names::{GUARD_SOCKET, SIDECAR_SOCKET};
use tokio::{
    sync::watch,
    time::{interval, sleep},
};

use crate::listeners::{self, Listeners, Ports};

pub(crate) mod channel;
mod host;

pub use host::Host;

use channel::{Channel, Gate, Order, Packet, Report};

/// Abstract unix sockets (without the leading NUL) by which guard and sidecar find each other. Each binds its own
/// before it looks for the other's, so that two that start at once can't miss each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Where a guard hands sockets over.
    pub guard: String,
    /// Where a sidecar gives them back to a restarted guard.
    pub sidecar: String,
}

/// A sidecar's part in the hand-over.
pub struct Session {
    /// What the workers accept from, once they are told to.
    pub listeners: Listeners,
    held: Listeners,
    names: Names,
    /// `None` while another sidecar, which is about to drain, has it.
    gate: Option<Gate>,
    guard: Option<Channel>,
}

/// The one that drains lets go of its name at once.
const GATE_RETRY: Duration = Duration::from_millis(20);

/// Takes the listening sockets over from the pod's guard, or binds them where there is none.
/// [`Session::run`] must be polled soon after: a restarting guard waits for it.
///
/// # Errors
/// When there is no guard and a port can't be had.
pub async fn join(names: Names, ports: Ports, workers: usize) -> io::Result<Session> {
    let gate = Gate::bind(&names.sidecar).ok();
    let mut guard = Channel::connect(&names.guard)?;
    let mut taken = None;
    if let Some(channel) = &guard {
        let received = tokio::select! {
            received = channel.shared() => received,
            // A guard that asks for sockets now gets an end instead: there are none yet.
            never = turn_away(gate.as_ref()) => match never {},
        };
        match received {
            Ok((listeners, _)) => taken = Some(listeners),
            Err(error) => {
                tracing::warn!(%error, "the guard ended before it handed its sockets over");
                guard = None;
            }
        }
    }
    let held = match taken {
        Some(listeners) => listeners,
        None => listeners::bind(ports, workers)?,
    };
    Ok(Session { listeners: held.try_clone()?, held, names, gate, guard })
}

/// Never resolves.
async fn turn_away(gate: Option<&Gate>) -> Infallible {
    loop {
        next_guard(gate).await;
    }
}

async fn next_guard(gate: Option<&Gate>) -> Channel {
    let Some(gate) = gate else { return pending().await };
    loop {
        match gate.accept().await {
            Ok(channel) => return channel,
            Err(error) => {
                tracing::warn!(%error, "a guard couldn't ask for the sockets");
                sleep(GATE_RETRY).await;
            }
        }
    }
}

/// Resolves once `flag` is true; never if nobody can set it any more.
async fn raised(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|raised| *raised).await.is_err() {
        pending::<()>().await;
    }
}

// === impl Names ===

impl Default for Names {
    fn default() -> Self {
        Self { guard: GUARD_SOCKET.to_owned(), sidecar: SIDECAR_SOCKET.to_owned() }
    }
}

// === impl Session ===

impl Session {
    /// Whether the sockets came from a guard.
    pub fn guarded(&self) -> bool {
        self.guard.is_some()
    }

    /// Sets `accept` as the guard says, and without a guard as soon as `ready` is true. `heartbeat` must resolve once
    /// every worker has answered it. Ends when `drain` becomes true: set here because a newer sidecar has taken over,
    /// or set elsewhere because this one shall end, which the guard is told.
    pub async fn run<H, B>(
        mut self,
        ready: watch::Receiver<bool>,
        accept: watch::Sender<bool>,
        drain: watch::Sender<bool>,
        heartbeat: H,
    ) where
        H: Fn() -> B,
        B: Future<Output = ()>,
    {
        let mut ready_flag = ready;
        let mut is_ready = false;
        let mut leave = drain.subscribe();
        let mut beat = Either::Right(pending());
        let mut retry = interval(GATE_RETRY);
        loop {
            let mut over = false;
            tokio::select! {
                biased;
                packet = next_packet(self.guard.as_ref()) => match packet {
                    Ok(Packet::Order(Order::Go)) => {
                        accept.send_replace(true);
                        over = self.report(Report::Accepting).is_err();
                    }
                    Ok(Packet::Order(Order::Pause)) => _ = accept.send_replace(false),
                    Ok(Packet::Order(Order::Ping)) => beat = Either::Left(Box::pin(heartbeat())),
                    Ok(Packet::Order(Order::Drain)) => {
                        tracing::info!("a newer sidecar has taken over");
                        accept.send_replace(false);
                        drain.send_replace(true);
                        return;
                    }
                    Ok(packet) => tracing::warn!(?packet, "not for a sidecar"),
                    Err(error) => {
                        tracing::warn!(%error, "the guard has ended; accepting without it");
                        over = true;
                    }
                },
                () = raised(&mut leave) => {
                    let _ = self.report(Report::Leaving);
                    accept.send_replace(false);
                    return;
                }
                () = raised(&mut ready_flag), if !is_ready => {
                    is_ready = true;
                    over = self.report(Report::Ready).is_err();
                }
                () = &mut beat => {
                    beat = Either::Right(pending());
                    over = self.report(Report::Pong).is_err();
                }
                guard = next_guard(self.gate.as_ref()) => self.give_back(guard, is_ready, *accept.borrow()),
                _ = retry.tick(), if self.gate.is_none() => {
                    self.gate = Gate::bind(&self.names.sidecar).ok();
                }
            }
            if over {
                self.guard = None;
                beat = Either::Right(pending());
            }
            if self.guard.is_none() && is_ready {
                accept.send_if_modified(|accept| !std::mem::replace(accept, true));
            }
        }
    }

    fn report(&self, report: Report) -> io::Result<()> {
        self.guard.as_ref().map_or(Ok(()), |guard| guard.report(report))
    }

    /// A guard has been started and asks for the sockets. It is the guard from now on.
    fn give_back(&mut self, guard: Channel, ready: bool, accepting: bool) {
        // Before the sockets, so that the guard begins with knowing it.
        let state = match (accepting, ready) {
            (true, _) => guard.report(Report::Accepting),
            (false, true) => guard.report(Report::Ready),
            (false, false) => Ok(()),
        };
        match state.and_then(|()| guard.share(&self.held)) {
            Ok(()) => {
                tracing::info!("a guard has got the sockets back");
                self.guard = Some(guard);
            }
            Err(error) => tracing::warn!(%error, "the sockets couldn't be given back"),
        }
    }
}

async fn next_packet(guard: Option<&Channel>) -> io::Result<Packet> {
    match guard {
        Some(guard) => guard.recv().await,
        None => pending().await,
    }
}
