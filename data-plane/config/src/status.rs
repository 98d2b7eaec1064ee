//! How the client fares, for the admin interface and metrics. Written by the control thread, read by anyone.

use std::{sync::Arc, time::SystemTime};

use outrigger_wire::names::type_url;
use tokio::sync::watch;

use crate::state::{Kind, State};

/// Shared between the client and whoever reports on it.
#[derive(Debug)]
pub struct ClientStatus(watch::Sender<Status>);

/// One consistent view.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The xDS stream is up.
    pub connected: bool,
    /// xDS streams opened since the start.
    pub streams: u64,
    /// Responses taken since the start.
    pub updates: u64,
    /// When the last response was taken.
    pub last_update: Option<SystemTime>,
    /// (type URL, resources whose version is held).
    pub resources: [(&'static str, usize); 4],
    /// Resources whose newest version is refused now; the last good one is in force. At most 100.
    pub refusals: Vec<Refusal>,
    /// Resources whose version in force is on trial.
    pub on_trial: usize,
    /// Workloads whose calls are refused because no control plane is heard, as their owners want.
    pub closed: usize,
    /// Why the last xDS stream ended or couldn't be opened.
    pub last_error: Option<String>,
    pub certificate: CertificateStatus,
}

/// A resource that was answered with a NACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub type_url: &'static str,
    pub name: String,
    pub reason: String,
}

#[derive(Debug, Clone, Default)]
pub struct CertificateStatus {
    /// End of the certificate in force.
    pub not_after: Option<SystemTime>,
    /// Certificates obtained since the start.
    pub issued: u64,
    /// Why the last attempt failed; `None` after a success.
    pub last_error: Option<String>,
}

// === impl ClientStatus ===

impl ClientStatus {
    pub fn new() -> Arc<Self> {
        let resources = type_url::ALL.map(|url| (url, 0));
        Arc::new(Self(watch::Sender::new(Status { resources, ..Status::default() })))
    }

    /// What is known now.
    pub fn get(&self) -> Status {
        self.0.borrow().clone()
    }

    /// Resolves whenever something changes.
    pub fn changes(&self) -> watch::Receiver<Status> {
        self.0.subscribe()
    }

    pub(crate) fn connected(&self) {
        self.0.send_modify(|status| {
            status.connected = true;
            status.closed = 0;
            status.streams += 1;
        });
    }

    pub(crate) fn disconnected(&self, reason: String) {
        self.0.send_modify(|status| {
            status.connected = false;
            status.last_error = Some(reason);
        });
    }

    pub(crate) fn closed(&self, workloads: usize) {
        self.0.send_modify(|status| status.closed = workloads);
    }

    pub(crate) fn updated(&self, state: &State) {
        self.0.send_modify(|status| {
            status.updates += 1;
            status.last_update = Some(SystemTime::now());
        });
        self.holds(state);
    }

    pub(crate) fn holds(&self, state: &State) {
        self.0.send_modify(|status| {
            status.resources = Kind::ALL.map(|kind| (kind.url(), state.held(kind)));
            status.refusals = state.refusals().collect();
            status.on_trial = state.trials.running();
        });
    }

    pub(crate) fn certificate(&self, change: impl FnOnce(&mut CertificateStatus)) {
        self.0.send_modify(|status| change(&mut status.certificate));
    }
}
