//! The guard's side of the hand-over: owns the sockets and the connections to sidecars, carries out what
//! `guard::state` decides.

use std::{future::pending, io, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Names,
    channel::{Channel, Gate, Packet},
};
use crate::{
    guard::state::{Authority, Event, Machine, Patience, PeerId},
    listeners::{self, Listeners, Ports},
};

/// Pause after an error that would come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);

/// What a guard holds.
pub struct Host {
    gate: Gate,
    listeners: Listeners,
    peers: Vec<(PeerId, Channel)>,
    next_id: PeerId,
    machine: Machine,
}

impl Host {
    /// Gets the listening sockets: back from a sidecar that outlived the last guard, or new ones. While such a sidecar
    /// hangs this waits, because a second set of sockets would share the pod's connections with the first.
    ///
    /// # Errors
    /// When another guard is there, or a port can't be had.
    pub async fn start(names: &Names, ports: Ports, workers: usize, patience: Patience) -> io::Result<Self> {
        let gate = Gate::bind(&names.guard)?;
        let mut host = Self {
            gate,
            listeners: Listeners::default(),
            peers: Vec::new(),
            next_id: 0,
            machine: Machine::new(patience),
        };
        if let Some(sidecar) = Channel::connect(&names.sidecar)? {
            match sidecar.shared().await {
                Ok((listeners, state)) => {
                    tracing::info!("got the listening sockets back from the sidecar");
                    host.listeners = listeners;
                    let id = host.enter(sidecar);
                    if let Some(report) = state {
                        host.machine.on(Instant::now(), id, Event::Said(report));
                    }
                    return Ok(host);
                }
                Err(error) => tracing::info!(%error, "the sidecar has no sockets to give back"),
            }
        }
        host.listeners = listeners::bind(ports, workers)?;
        Ok(host)
    }

    /// What the guard accepts from while it has the authority.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// Serves sidecars and publishes who accepts. Runs for ever.
    pub async fn run(mut self, authority: watch::Sender<Option<Authority>>) {
        loop {
            self.publish(&authority);
            self.tell();
            let deadline = self.machine.deadline();
            let due = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => pending().await,
                }
            };
            // What has come is heard before a deadline is judged: if this very process was held up, an answer that is
            // here already isn't late.
            tokio::select! {
                biased;
                (id, received) = Channel::recv_any(&self.peers) => self.hear(id, received),
                accepted = self.gate.accept() => match accepted {
                    Ok(channel) => self.welcome(channel),
                    Err(error) => {
                        tracing::warn!(%error, "a sidecar couldn't connect");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                () = due => self.machine.tick(Instant::now()),
            }
        }
    }

    fn welcome(&mut self, channel: Channel) {
        match channel.share(&self.listeners) {
            Ok(()) => _ = self.enter(channel),
            Err(error) => tracing::warn!(%error, "the sockets couldn't be handed over"),
        }
    }

    fn enter(&mut self, channel: Channel) -> PeerId {
        let id = self.next_id;
        self.next_id += 1;
        self.peers.push((id, channel));
        self.machine.on(Instant::now(), id, Event::Joined);
        id
    }

    fn hear(&mut self, id: PeerId, received: io::Result<Packet>) {
        let event = match received {
            Ok(Packet::Report(report)) => Event::Said(report),
            Ok(packet) => return tracing::warn!(?packet, "not for a guard"),
            Err(_) => {
                self.peers.retain(|(peer, _)| *peer != id);
                Event::Gone
            }
        };
        self.machine.on(Instant::now(), id, event);
    }

    fn tell(&mut self) {
        for (id, order) in self.machine.take_orders() {
            if let Some((_, channel)) = self.peers.iter().find(|(peer, _)| *peer == id)
                && let Err(error) = channel.order(order)
            {
                // Its end will be heard, or it hangs: both are acted on there.
                tracing::debug!(%error, ?order, "a sidecar couldn't be told");
            }
        }
    }

    fn publish(&self, authority: &watch::Sender<Option<Authority>>) {
        let now = self.machine.authority();
        authority.send_if_modified(|published| {
            if *published == Some(now) {
                return false;
            }
            match now {
                Authority::Sidecar => tracing::info!("the sidecar accepts"),
                Authority::Guard(cause) => tracing::warn!(?cause, "the guard accepts"),
            }
            *published = Some(now);
            true
        });
    }
}
