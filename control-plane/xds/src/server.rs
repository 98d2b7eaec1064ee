//! The gRPC edge: both protocols over the same [`Session`]. One task and one small queue for each stream, so a slow
//! client holds up nobody else.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard},
    time::Duration,
};

use outrigger_model::{MeshSnapshot, Resource};
use outrigger_wire::{
    names::{ANCHOR_METADATA, NOT_OLDER_THAN},
    proto::{
        discovery::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse},
        envoy::config::core::v3::{ControlPlane, Node},
        google::rpc,
    },
};
use prost::Message;
use prost_types::{Any, value::Kind};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::timeout,
};
use tonic::{Status, Streaming, body::Body};

use crate::{
    Acks, Names, Principal, Push, Request, Session, TooManyNames, Variant, Verdict,
    acks::Entry,
    hub::{Hub, Mail},
    known_type,
    transport::{self, Outgoing, Responses},
};

#[cfg(test)]
mod tests;

/// Responses that wait for one client's socket. At most one of each type can be unanswered.
const QUEUE: usize = 4;
/// Longest name of a root in bytes.
const MAX_ANCHOR: usize = 128;
/// How long a client that knows newer things waits for this replica to read them, too. Then older ones are better than none.
const LAG: Duration = Duration::from_secs(5);
/// Before the name of a method.
const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";

/// The aggregated discovery service over a source of snapshots, to be added to a router. When the source closes, so do all
/// streams.
#[derive(Debug, Clone)]
pub struct Ads {
    hub: Arc<Hub>,
    acks: Arc<Acks>,
}

/// What differs between the two protocols.
pub(crate) trait Protocol: Send + 'static {
    type Request: Message + Default + 'static;
    type Response: Message;
    const VARIANT: Variant;

    fn read(request: Self::Request) -> (Option<Node>, String, Request);
    fn write(push: Push, version: String) -> Self::Response;
}

pub(crate) enum Delta {}
pub(crate) enum StateOfTheWorld {}

// === impl Ads ===

impl Ads {
    /// Nothing is answered before a snapshot of generation 1 or later. Within a runtime: a task follows the source.
    pub fn new(snapshots: watch::Receiver<Arc<MeshSnapshot>>, acks: Arc<Acks>) -> Self {
        let hub = Arc::<Hub>::default();
        let follower = Arc::clone(&hub);
        tokio::spawn(async move { follower.follow(snapshots).await });
        Self { hub, acks }
    }

    /// What a call is answered with, by its path.
    pub(crate) fn answer(&self, request: http::Request<Body>) -> http::Response<Body> {
        match request.uri().path().strip_prefix(PATH) {
            Some("DeltaAggregatedResources") => self.serve::<Delta>(request),
            Some("StreamAggregatedResources") => self.serve::<StateOfTheWorld>(request),
            _ => Status::unimplemented("there is no such method").into_http(),
        }
    }

    fn serve<P: Protocol>(&self, request: http::Request<Body>) -> http::Response<Body> {
        let Some(principal) = request.extensions().get::<Principal>().cloned() else {
            return Status::unauthenticated("the caller has not proven who it is").into_http();
        };
        let known = request.headers().get(NOT_OLDER_THAN).and_then(|token| token.to_str().ok());
        let known = known.unwrap_or_default().to_owned();
        let (out, responses) = mpsc::channel(QUEUE);
        let (hub, acks) = (Arc::clone(&self.hub), Arc::clone(&self.acks));
        tokio::spawn(async move {
            let requests = transport::incoming(request.into_body());
            hub.ready().await;
            if timeout(LAG, hub.covers(&known)).await.is_err() {
                tracing::warn!(known, workload = %principal.workload, "a proxy knows what this replica hasn't read; it may be set back");
            }
            if let Err(status) = run::<P>(principal, requests, &hub, &acks, &out).await {
                // The client may be gone; then nobody needs the reason.
                let _ = out.send(Err(status)).await;
            }
        });
        Responses::response(responses)
    }
}

/// One stream, until either side ends it.
async fn run<P: Protocol>(
    principal: Principal,
    mut requests: Streaming<P::Request>,
    hub: &Hub,
    acks: &Arc<Acks>,
    out: &Outgoing,
) -> Result<(), Status> {
    let seat = Seat::new(hub, acks.enter(Session::new(P::VARIANT, principal)));
    loop {
        tokio::select! {
            request = requests.message() => {
                let Some(request) = request? else { return Ok(()) };
                let (node, type_url, request) = P::read(request);
                seat.take(node, &type_url, request)?;
            }
            () = seat.bell.notified() => drop(seat.catch_up()?),
            () = out.closed() => return Ok(()),
        }
        let pushes = seat.session().pushes();
        for push in pushes {
            acks.count(push.type_url, |counts| counts.pushes += 1);
            let version = seat.session().version();
            let message = transport::framed(&P::write(push, version));
            if out.send(Ok(message)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// A stream's place at the hub, which it leaves when it ends.
pub(crate) struct Seat<'a> {
    hub: &'a Hub,
    entry: Entry,
    /// Rings when there is mail.
    bell: Arc<Notify>,
}

// === impl Seat ===

impl<'a> Seat<'a> {
    pub(crate) fn new(hub: &'a Hub, entry: Entry) -> Self {
        let bell = hub.join(entry.id());
        Self { hub, entry, bell }
    }

    pub(crate) fn session(&self) -> MutexGuard<'_, Session> {
        self.entry.session()
    }

    /// Takes in all that has changed for the stream.
    pub(crate) fn catch_up(&self) -> Result<Arc<MeshSnapshot>, Status> {
        self.touch(self.hub.collect(self.entry.id()))
    }

    fn touch(&self, collected: Option<(Arc<MeshSnapshot>, Mail)>) -> Result<Arc<MeshSnapshot>, Status> {
        let (snapshot, mail) = collected.ok_or_else(|| Status::unavailable("the controller is shutting down"))?;
        self.entry.session().touch(&snapshot, &mail);
        Ok(snapshot)
    }

    pub(crate) fn take(&self, node: Option<Node>, type_url: &str, request: Request) -> Result<(), Status> {
        let too_many = |error: TooManyNames| Status::resource_exhausted(error.to_string());
        let mut snapshot = self.catch_up()?;
        if let Some(node) = node {
            let mut session = self.entry.session();
            session.show(anchor(&node));
            session.name_node(node.id);
        }
        let Some(type_url) = known_type(&snapshot, type_url) else {
            // A later client may know more types than we do; the others must go on.
            tracing::debug!(type_url, workload = %self.entry.session().principal().workload, "a type that isn't served was asked for");
            return Ok(());
        };
        let (asked, dropped) = self.entry.session().asks_of(type_url, &request.names).map_err(too_many)?;
        if !asked.is_empty() {
            // Before it is looked at what there is: what changes from here on is told.
            snapshot = self.touch(self.hub.ask(self.entry.id(), type_url, asked.iter().map(String::as_str)))?;
        }
        let mut session = self.entry.session();
        let verdict = session.request(type_url, request, &snapshot).map_err(too_many)?;
        let dropped = dropped.iter().map(String::as_str).filter(|name| !session.asks_for(type_url, name));
        self.hub.forget(self.entry.id(), type_url, dropped);
        if verdict == Verdict::Nack {
            self.entry.acks().count(type_url, |counts| counts.nacks += 1);
            let reason = session.reason(type_url).unwrap_or_default();
            tracing::warn!(type_url, workload = %session.principal().workload, reason, "configuration was rejected");
        }
        Ok(())
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let session = self.entry.session();
        for subscription in session.subscriptions() {
            self.hub.forget(self.entry.id(), subscription.type_url(), subscription.asks());
        }
        self.hub.leave(self.entry.id());
    }
}

// === impl Delta ===

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const VARIANT: Variant = Variant::Delta;

    fn read(request: DeltaDiscoveryRequest) -> (Option<Node>, String, Request) {
        let names = Names::Change {
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            known: HashMap::from_iter(request.initial_resource_versions),
        };
        let error = request.error_detail.map(reason);
        (request.node, request.type_url, Request { names, nonce: request.response_nonce.parse().ok(), error })
    }

    fn write(push: Push, version: String) -> DeltaDiscoveryResponse {
        let resource = |resource: &Arc<Resource>| discovery::Resource {
            version: resource.version.to_string(),
            resource: Some(any(push.type_url, resource)),
            name: resource.name.to_string(),
            aliases: resource.aliases.iter().map(ToString::to_string).collect(),
            ttl: None,
        };
        DeltaDiscoveryResponse {
            system_version_info: version,
            resources: push.resources.iter().map(resource).collect(),
            type_url: push.type_url.to_owned(),
            nonce: push.nonce.to_string(),
            removed_resources: push.removed.iter().map(ToString::to_string).collect(),
            control_plane: Some(control_plane()),
        }
    }
}

// === impl StateOfTheWorld ===

impl Protocol for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const VARIANT: Variant = Variant::StateOfTheWorld;

    fn read(request: DiscoveryRequest) -> (Option<Node>, String, Request) {
        let names = Names::Whole(request.resource_names);
        let error = request.error_detail.map(reason);
        (request.node, request.type_url, Request { names, nonce: request.response_nonce.parse().ok(), error })
    }

    fn write(push: Push, version: String) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: version,
            resources: push.resources.iter().map(|resource| any(push.type_url, resource)).collect(),
            canary: false,
            type_url: push.type_url.to_owned(),
            nonce: push.nonce.to_string(),
            control_plane: Some(control_plane()),
        }
    }
}

/// What a node says of its certificate.
fn anchor(node: &Node) -> String {
    let said = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(ANCHOR_METADATA)?.kind.as_ref());
    match said {
        Some(Kind::StringValue(anchor)) if anchor.len() <= MAX_ANCHOR => anchor.clone(),
        _ => String::new(),
    }
}

fn any(type_url: &str, resource: &Resource) -> Any {
    Any { type_url: type_url.to_owned(), value: resource.body.to_vec() }
}

fn control_plane() -> ControlPlane {
    ControlPlane { identifier: concat!("outrigger/", env!("CARGO_PKG_VERSION")).to_owned() }
}

fn reason(status: rpc::Status) -> String {
    status.message
}
