//! What a token is good for: one's own certificate and one's own policy.

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Machine, Mesh, PodSpec, Proxies, Spec};
use outrigger_wire::{
    names::type_url::INBOUND,
    proto::discovery::{DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
};
use tonic::{Code, Status};

use crate::cases::SHARED;

use super::peer::{Peer, authorised, block_on, controller, token};

const MALLORY: &str = "shop/mallory";
const VICTIM: &str = "shop/victim";
const VICTIMS_NAME: &str = "spiffe://cluster.local/ns/shop/sa/victim";

pub(super) fn own_alone(machine: &Machine) -> Result<()> {
    let pods = vec![PodSpec::new(MALLORY), PodSpec::new(VICTIM).proxies(Proxies::Guard)];
    let mut mesh = Mesh::start(machine, Spec { pods, shared: 1, ..Spec::default() })?;
    mesh.kill_sidecar(MALLORY)?;
    let (mallory, victim) = (token(machine, MALLORY)?, token(machine, VICTIM)?);
    let secret = |token: &str| token.split_once(':').map(|(_, secret)| secret.to_owned()).context("a token's secret");

    let names = [VICTIMS_NAME, "spiffe://cluster.local/ns/outrigger-system/sa/outrigger-shared"];
    for names in [&names[..1], &names[..]] {
        let (_, leaf) = Peer::issued(machine, &mesh, Some(&mallory), names)?.context("mallory's certificate")?;
        ensure!(leaf.contains("spiffe://cluster.local/ns/shop/sa/mallory"), "{leaf:?}");
        ensure!(leaf.matches("spiffe://").count() == 1 && !leaf.contains("victim"), "{leaf:?}");
    }

    let forged = [
        None,
        Some(String::new()),
        Some(VICTIM.to_owned()),
        Some(format!("{VICTIM}:")),
        Some(format!("{VICTIM}:{}", secret(&mallory)?)),
        Some(format!("{MALLORY}:{}", secret(&victim)?)),
        Some(format!("{victim}0")),
        Some(victim[..victim.len() - 1].to_owned()),
        Some(format!("shop/../{victim}")),
        Some(format!("shop/nobody:{}", secret(&mallory)?)),
    ];
    for token in &forged {
        let refused = |answer: Option<Status>| answer.is_some_and(|status| status.code() == Code::Unauthenticated);
        let issued = Peer::issued(machine, &mesh, token.as_deref(), &[VICTIMS_NAME])?;
        ensure!(refused(issued.err()), "a certificate for {token:?}");
        let inbounds = inbounds(machine, &mesh, token.as_deref(), &[VICTIM])?;
        ensure!(refused(inbounds.err()), "configuration for {token:?}");
    }

    let shared = token(machine, SHARED)?;
    let seen = |token: &str, asked: &[&str]| anyhow::Ok(inbounds(machine, &mesh, Some(token), asked)??);
    for (token, asked, want) in [
        (&mallory, &[MALLORY, VICTIM][..], &[MALLORY][..]),
        (&mallory, &[VICTIM], &[]),
        (&mallory, &["*"], &[MALLORY]),
        (&victim, &["*"], &[VICTIM]),
        (&shared, &["*"], &[SHARED, MALLORY, VICTIM]),
    ] {
        let seen = seen(token, asked)?;
        ensure!(seen == want, "{:?} asked for {asked:?} and saw {seen:?}", token.split(':').next());
    }
    Ok(())
}

/// Names of the Inbounds in the first answer to a subscription.
fn inbounds(
    machine: &Machine,
    mesh: &Mesh,
    token: Option<&str>,
    asked: &[&str],
) -> Result<Result<Vec<String>, Status>> {
    let subscription = DeltaDiscoveryRequest {
        type_url: INBOUND.to_owned(),
        resource_names_subscribe: asked.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    block_on(async {
        let mut client = AggregatedDiscoveryServiceClient::new(controller(machine, mesh).await?);
        // The stream stays open, or the answer might be lost with it.
        let (sender, requests) = tokio::sync::mpsc::channel(1);
        sender.send(subscription).await?;
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let mut answers = match client.delta_aggregated_resources(authorised(requests, token)?).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        let first = match answers.message().await {
            Ok(first) => first.context("an answer")?,
            Err(status) => return Ok(Err(status)),
        };
        let mut names: Vec<_> = first.resources.into_iter().map(|resource| resource.name).collect();
        names.sort();
        Ok(Ok(names))
    })?
}
