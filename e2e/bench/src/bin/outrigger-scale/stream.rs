//! The xDS stream as a sidecar speaks it: asks by name for what its app calls, follows services to their endpoints, takes
//! every response in and acknowledges it.

use std::{collections::HashMap, convert::Infallible, time::Instant};

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use outrigger_wire::{
    names::{address_alias, endpoint_glob, type_url},
    proto::{
        config::{Endpoint, Inbound, Service, Trust},
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
        envoy::config::core::v3::Node,
    },
};
use prost::Message;

use crate::proxy::Common;

/// Of a gRPC message: not compressed, and its length.
const HEADER: usize = 5;

/// What a proxy keeps from one stream to the next: versions by name, by type in order of [`type_url::ALL`].
pub(crate) type Held = [HashMap<Box<str>, u64>; 4];

pub(crate) struct Stream<'a> {
    proxy: usize,
    common: &'a Common,
    held: &'a mut Held,
    requests: SendStream<Bytes>,
    /// What hasn't been answered yet, by type.
    awaited: [bool; 4],
    /// Endpoints have been asked for.
    follows: bool,
}

// === impl Stream ===

impl<'a> Stream<'a> {
    /// Asks for everything that is known to be needed.
    pub(crate) fn open(
        proxy: usize,
        common: &'a Common,
        held: &'a mut Held,
        requests: SendStream<Bytes>,
    ) -> Result<Self> {
        let mut stream = Self { proxy, common, held, requests, awaited: [true; 4], follows: false };
        let workload = common.size.workload(proxy);
        let node = Node { id: format!("{workload}/sidecar"), user_agent_name: "outrigger".into(), ..Node::default() };
        stream.ask(0, vec!["*".to_owned()], Some(node))?;
        stream.ask(1, vec![workload], None)?;
        stream.ask_for_endpoints()?;
        let called = common.size.called_by(proxy).map(|service| address_alias(common.size.address_of(service).into()));
        stream.ask(3, called.collect(), None)?;
        Ok(stream)
    }

    /// Takes in what comes.
    pub(crate) async fn follow(&mut self, mut responses: RecvStream) -> Result<Infallible> {
        let mut buffer = BytesMut::new();
        loop {
            let Some(data) = responses.data().await else {
                bail!("the stream has ended: {:?}", responses.trailers().await);
            };
            let (data, at) = (data?, Instant::now());
            responses.flow_control().release_capacity(data.len())?;
            buffer.extend_from_slice(&data);
            while let Some(message) = message(&mut buffer) {
                let response = DeltaDiscoveryResponse::decode(&message[..])?;
                self.common.ledger.note(self.proxy, at, &response, message.len() + HEADER);
                self.take(&response)?;
            }
        }
    }

    fn take(&mut self, response: &DeltaDiscoveryResponse) -> Result<()> {
        let kind = type_url::ALL.iter().position(|url| *url == response.type_url).context("a type that isn't ours")?;
        for resource in &response.resources {
            parse(kind, resource)?;
            self.held[kind].insert(resource.name.as_str().into(), u64::from_str_radix(&resource.version, 16)?);
        }
        for name in &response.removed_resources {
            self.held[kind].remove(name.as_str());
        }
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        self.send(&DeltaDiscoveryRequest { type_url, response_nonce, ..DeltaDiscoveryRequest::default() })?;
        if !self.follows {
            self.ask_for_endpoints()?;
        }
        if std::mem::replace(&mut self.awaited[kind], false) && self.awaited == [false; 4] {
            self.common.ledger.note_synced();
        }
        Ok(())
    }

    /// Of all services, once they are known.
    fn ask_for_endpoints(&mut self) -> Result<()> {
        let globs: Vec<String> = self.held[3].keys().map(|service| endpoint_glob(service)).collect();
        if globs.is_empty() {
            return Ok(());
        }
        self.follows = true;
        self.ask(2, globs, None)
    }

    /// The first request of a type.
    fn ask(&mut self, kind: usize, names: Vec<String>, node: Option<Node>) -> Result<()> {
        let known = self.held[kind].iter().map(|(name, version)| (name.to_string(), format!("{version:016x}")));
        self.send(&DeltaDiscoveryRequest {
            node,
            type_url: type_url::ALL[kind].to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: known.collect(),
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn send(&mut self, request: &DeltaDiscoveryRequest) -> Result<()> {
        let length = request.encoded_len();
        let mut frame = BytesMut::with_capacity(HEADER + length);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(length)?);
        request.encode(&mut frame)?;
        Ok(self.requests.send_data(frame.freeze(), false)?)
    }
}

/// The next whole message.
fn message(buffer: &mut BytesMut) -> Option<BytesMut> {
    let length = u32::from_be_bytes(*buffer.get(1..)?.first_chunk()?) as usize;
    if buffer.len() < HEADER + length {
        return None;
    }
    buffer.advance(HEADER);
    Some(buffer.split_to(length))
}

/// What a proxy does with a resource before anything else.
fn parse(kind: usize, resource: &Resource) -> Result<()> {
    let body = &resource.resource.as_ref().context("a resource without a body")?.value[..];
    match kind {
        0 => drop(Trust::decode(body)?),
        1 => drop(Inbound::decode(body)?),
        2 => drop(Endpoint::decode(body)?),
        _ => drop(Service::decode(body)?),
    }
    Ok(())
}
